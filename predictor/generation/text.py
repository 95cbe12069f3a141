"""Text in, text out: what every protocol calls.

One `TextGenerator` stands between the protocols and the engine: it turns prompts and messages into tokens
and collects streams into completions, so that no protocol does so for itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

from predictor.chat.format import ChatFormat, Conversation, Prompt
from predictor.chat.grammar import Lazily
from predictor.engine.request import FinishReason, Request, TokenLogprob
from predictor.engine.vocabulary import Vocabulary
from predictor.errors import InvalidRequest, NoChatTemplate
from predictor.generation.chat import ChatAnswer, ChatReader, ChatRequest, PreparedChat, read_answer
from predictor.generation.streams import RequestStream
from predictor.structured.compiler import ConstraintCompiler, MakeConstraint
from predictor.structured.thinking import ThoughtMarks, with_thought_budget

Message = Mapping[str, Any]

# Longer texts are tokenized on another thread, so that the event loop keeps serving: about a millisecond.
QUICK_CHARACTERS = 4096


class TextEngine(Protocol):
    """The part of `predictor.engine.Engine` that text generation needs."""

    @property
    def context_tokens(self) -> int: ...

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]: ...

    def control_tokens(self, texts: Iterable[str]) -> dict[int, bytes]: ...

    def vocabulary(self) -> Vocabulary: ...

    def hold_vocabulary(self) -> AbstractContextManager[None]: ...

    def submit_all(self, requests: Sequence[Request]) -> Sequence[RequestStream]: ...


@dataclass(frozen=True, slots=True)
class Completion:
    """A finished generation.

    Attributes:
        text: everything generated, without the stop string.
        finish_reason: why it ended.
        prompt_tokens: tokens of the prompt.
        completion_tokens: tokens generated.
        cached_tokens: prompt tokens taken from the prefix cache.
        logprobs: one entry per generated token, when asked for.
        stop_string: the stop string that ended it, if one did.
    """

    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()
    stop_string: str | None = None


class TextGenerator:
    """Generates text with one model.

    Args:
        name: the model's name in every protocol.
        engine: runs the sequences.
        chat_format: how the model chats, None where it has no chat template.
        adapter: name of the engine's adapter to use.
    """

    def __init__(
        self, name: str, engine: TextEngine, chat_format: ChatFormat | None, adapter: str | None = None
    ) -> None:
        self.name = name
        self.adapter = adapter
        self.engine = engine
        self.chat_format = chat_format
        self.constraints = ConstraintCompiler(engine.vocabulary, engine.hold_vocabulary)

    def with_adapter(self, name: str) -> TextGenerator:
        """The same model with one of its adapters, under the adapter's name."""
        adapted = TextGenerator(name, self.engine, self.chat_format, name)
        adapted.constraints = self.constraints
        return adapted

    async def tokenize(self, prompt: str) -> tuple[int, ...]:
        """Tokens of a plain prompt, with the model's BOS token where it wants one.

        Raises:
            InvalidRequest: the prompt is empty.
        """
        if not prompt:
            raise InvalidRequest("the prompt is empty; send at least one character", param="prompt")
        return await self._tokens(prompt, add_special=True)

    @cached_property
    def _marks(self) -> dict[int, bytes]:
        """Text of the control tokens that stand in the model's own form, by id."""
        return {} if self.chat_format is None else self.engine.control_tokens(self.chat_format.marks())

    async def tokenize_chat(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Tokens of a conversation, rendered with the model's chat template.

        Raises:
            InvalidRequest: there are no messages, or the template refuses them.
            NoChatTemplate: the model has no template.
        """
        _, _, tokens = await self._chat_prompt(Conversation(messages))
        return tokens

    async def prepare_chat(self, request: ChatRequest) -> PreparedChat:
        """A chat as the engine takes it.

        Raises:
            InvalidRequest: there are no messages, the template refuses them, or a schema can't be used.
            NoChatTemplate: the model has no template.
        """
        chat_format, prompt, tokens = await self._chat_prompt(request.conversation)
        make = await self._constraint(chat_format, prompt, request)
        return PreparedChat(tokens, make, self._marks, chat_format, prompt, request)

    async def _chat_prompt(self, conversation: Conversation) -> tuple[ChatFormat, Prompt, tuple[int, ...]]:
        if not conversation.messages:
            raise InvalidRequest("messages is empty; send at least one message", param="messages")
        if self.chat_format is None:
            raise NoChatTemplate(
                f"model {self.name!r} has no chat template in its GGUF: send a plain prompt instead, "
                "or start the server with --chat-template FILE"
            )
        prompt = self.chat_format.prompt(conversation)
        # A template writes the BOS token itself, so the tokenizer must not add a second one.
        writes_bos = self.chat_format.template.writes_bos(prompt.text)
        return self.chat_format, prompt, await self._tokens(prompt.text, add_special=not writes_bos)

    async def _constraint(
        self, chat_format: ChatFormat, prompt: Prompt, request: ChatRequest
    ) -> MakeConstraint | None:
        control = {text.decode("utf-8", "replace"): token for token, text in self._marks.items()}
        tools = request.conversation.tools
        wanted = chat_format.constraint(request.wish, tools, prompt, control)
        thought = _thought_marks(chat_format, prompt)
        make: MakeConstraint | None = None
        if isinstance(wanted, Lazily):
            make = await self.constraints.after(
                wanted.trigger,
                wanted.grammar,
                once=wanted.once,
                at_start=wanted.at_start,
                thought=thought,
                marks=self._marks,
            )
        elif wanted is not None:
            make = await self.constraints.whole(wanted)
        if request.thought_tokens is None or thought is None:
            return make
        end = self.engine.tokenize(thought.closing, add_special=False, parse_special=True)
        pieces = await self.constraints.pieces(self._marks)
        return with_thought_budget(make, thought, pieces, end, request.thought_tokens)

    async def _tokens(self, text: str, *, add_special: bool) -> tuple[int, ...]:
        if len(text) <= QUICK_CHARACTERS:
            return tuple(self.engine.tokenize(text, add_special=add_special, parse_special=True))
        return tuple(
            await asyncio.to_thread(self.engine.tokenize, text, add_special=add_special, parse_special=True)
        )

    def submit(self, requests: Sequence[Request]) -> Sequence[RequestStream]:
        """Start the requests together: all are admitted or none.

        Raises:
            InvalidRequest: a prompt is empty or too long.
            Unavailable: the queue is full, or the engine isn't ready.
        """
        if self.adapter is not None:
            requests = [replace(request, adapter=self.adapter) for request in requests]
        return self.engine.submit_all(requests)

    async def complete(self, requests: Sequence[Request]) -> list[Completion]:
        """Run the requests as one batch and wait for all of them; cancels them when cancelled itself.

        Raises:
            InvalidRequest: a prompt is empty or too long.
            Unavailable: the queue is full, or the engine isn't ready.
            EngineFailure: llama.cpp failed.
        """
        streams = self.submit(requests)
        pairs = zip(streams, requests, strict=True)
        try:
            return list(await asyncio.gather(*(collect(s, len(r.prompt)) for s, r in pairs)))
        finally:
            for stream in streams:
                stream.cancel()

    async def complete_chat(
        self, requests: Sequence[Request], readers: Sequence[ChatReader]
    ) -> list[ChatAnswer]:
        """As `complete`, with a reader for each of the answers."""
        streams = self.submit(requests)
        triples = zip(streams, readers, requests, strict=True)
        try:
            return list(await asyncio.gather(*(read_answer(s, r, len(q.prompt)) for s, r, q in triples)))
        finally:
            for stream in streams:
                stream.cancel()


async def collect(stream: RequestStream, prompt_tokens: int) -> Completion:
    """Read a stream to its end.

    Raises:
        EngineFailure: the stream ended without a finish reason because llama.cpp failed.
    """
    text: list[str] = []
    logprobs: list[TokenLogprob] = []
    async for delta in stream:
        text.append(delta.text)
        logprobs.extend(delta.logprobs)
        last = delta
    assert last.finish_reason is not None
    return Completion(
        text="".join(text),
        finish_reason=last.finish_reason,
        prompt_tokens=prompt_tokens,
        completion_tokens=last.completion_tokens,
        cached_tokens=last.cached_tokens,
        logprobs=tuple(logprobs),
        stop_string=last.stop_string,
    )


def _thought_marks(chat_format: ChatFormat, prompt: Prompt) -> ThoughtMarks | None:
    """Where thoughts begin and end in answers to a prompt, None where there can't be any."""
    if not (prompt.in_thought or prompt.may_think):
        return None
    start, end, closing = chat_format.thought_marks()
    return ThoughtMarks(start.encode(), end.encode(), closing, prompt.in_thought)
