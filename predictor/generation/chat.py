"""A chat from messages to events: what every protocol with conversations calls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from predictor.chat.answer_reader import AnswerReader
from predictor.chat.events import Event
from predictor.chat.format import AnswerWish, ChatFormat
from predictor.chat.prompting import Conversation, Prompt
from predictor.engine.request import Delta, FinishReason, TokenLogprob
from predictor.generation.streams import RequestStream
from predictor.structured.compiler import MakeConstraint


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """What a protocol asks for.

    Attributes:
        conversation: messages, tools and how they are shown.
        wish: what answers are held to.
        thought_tokens: most tokens of a thought before it is ended; None leaves it free.
    """

    conversation: Conversation
    wish: AnswerWish = field(default_factory=AnswerWish)
    thought_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class PreparedChat:
    """A chat that is ready for the engine.

    Attributes:
        tokens: of the prompt.
        make_constraint: makes the constraint of one answer, None where answers are free.
        marks: text of the control tokens that must be seen in answers, by id.
    """

    tokens: tuple[int, ...]
    make_constraint: MakeConstraint | None
    marks: Mapping[int, bytes]
    chat_format: ChatFormat
    prompt: Prompt
    request: ChatRequest

    def reader(self) -> ChatReader:
        """A reader for one of the answers."""
        reader = self.chat_format.reader(self.prompt, self.request.conversation.tools)
        return ChatReader(reader, thinks=self.chat_format.thinks)


class ChatReader:
    """Turns the deltas of one answer into events, and counts the tokens of its thoughts.

    Args:
        reader: of the model's form.
        thinks: whether the model can think.
    """

    def __init__(self, reader: AnswerReader, *, thinks: bool) -> None:
        self._reader = reader
        self._reasoning_tokens = 0 if thinks else None

    @property
    def calls(self) -> int:
        """How many calls have been read to their end."""
        return self._reader.calls

    @property
    def has_calls(self) -> bool:
        """Whether the answer has called a function."""
        return self.calls > 0

    @property
    def reasoning_tokens(self) -> int | None:
        """Tokens of thoughts so far, None where the model has no thoughts."""
        return self._reasoning_tokens

    def push(self, delta: Delta) -> list[Event]:
        """The events of the next delta; the last one ends the answer."""
        thought = self._reader.is_thinking
        events = self._reader.push(delta.text)
        if thought or self._reader.is_thinking:
            self._reasoning_tokens = delta.completion_tokens
        if delta.finish_reason is not None:
            events = events + self._reader.finish()
        return events


@dataclass(frozen=True, slots=True)
class ChatAnswer:
    """A finished answer.

    Attributes:
        events: thoughts, text and calls in their order.
        has_calls: whether it has called a function to the end.
        reasoning_tokens: tokens of its thoughts, None where the model never thinks.
    """

    events: list[Event]
    finish_reason: FinishReason
    has_calls: bool
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    reasoning_tokens: int | None
    logprobs: tuple[TokenLogprob, ...]


async def read_answer(stream: RequestStream, reader: ChatReader, prompt_tokens: int) -> ChatAnswer:
    """Read a stream to its end.

    Raises:
        EngineFailure: the stream ended without a finish reason because llama.cpp failed.
    """
    events: list[Event] = []
    logprobs: list[TokenLogprob] = []
    async for delta in stream:
        events += reader.push(delta)
        logprobs.extend(delta.logprobs)
        last = delta
    assert last.finish_reason is not None
    return ChatAnswer(
        events=events,
        finish_reason=last.finish_reason,
        has_calls=reader.has_calls,
        prompt_tokens=prompt_tokens,
        completion_tokens=last.completion_tokens,
        cached_tokens=last.cached_tokens,
        reasoning_tokens=reader.reasoning_tokens,
        logprobs=tuple(logprobs),
    )
