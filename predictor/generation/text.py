"""Text in, text out: what every protocol calls.

One `TextGenerator` stands between the protocols and the engine: it turns prompts and messages into tokens
and collects streams into completions, so that no protocol does so for itself.
"""

from __future__ import annotations

import asyncio
import copy
import functools
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

from predictor.background import BackgroundThreads, stop_if_abandoned
from predictor.chat.template import ChatTemplate, plain_messages
from predictor.chat.tools import Tool, for_template, shows_tools
from predictor.chat.turns import own_text, weaknesses
from predictor.engine.request import Delta, FinishReason, Request, TokenLogprob
from predictor.engine.special_tokens import Segment
from predictor.engine.vocabulary import Vocabulary
from predictor.errors import InvalidRequest, NoChatTemplate, PromptTooLong
from predictor.structured.compiler import ConstraintCompiler

Message = Mapping[str, Any]

# Longer texts are tokenized on another thread, so that the event loop keeps serving: about a millisecond.
QUICK_CHARACTERS = 4096
_CHARACTERS_OF_OTHERS = 64  # what a message, a call or a tool counts for beside its text

# For all models of the process, since all share its cores.
long_texts = BackgroundThreads("tokenizing", threads=2, most_waiting=256)


class RequestStream(Protocol):
    """The deltas of one request, in order; the last one has a `finish_reason`."""

    def __aiter__(self) -> Self: ...

    async def __anext__(self) -> Delta: ...

    def cancel(self) -> None:
        """Free the sequence; safe to call at any time, also after the end."""


class TextEngine(Protocol):
    """The part of `predictor.engine.Engine` that text generation needs."""

    @property
    def max_sequence_tokens(self) -> int: ...

    def check_count(self, requests: int) -> None: ...

    def check_length(self, characters: int, param: str) -> None: ...

    def tokenize_segments(
        self, segments: Sequence[Segment], *, add_special: bool, markers: frozenset[int] = frozenset()
    ) -> list[int]: ...

    def markers(self, source: str) -> frozenset[int]: ...

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
        template: the model's chat template, None where it has none.
        adapter: name of the engine's adapter to use.
        trust_message_tokens: read control tokens in what users write as control tokens.
    """

    def __init__(
        self,
        name: str,
        engine: TextEngine,
        template: ChatTemplate | None,
        adapter: str | None = None,
        *,
        trust_message_tokens: bool = False,
    ) -> None:
        self.name = name
        self.adapter = adapter
        self.engine = engine
        self.template = template
        self.trust_message_tokens = trust_message_tokens
        self._markers = engine.markers(own_text(template)) if template else frozenset()
        self.constraints = ConstraintCompiler(engine.vocabulary, engine.hold_vocabulary)

    def with_adapter(self, name: str) -> TextGenerator:
        """The same model with one of its adapters, under the adapter's name."""
        adapted = copy.copy(self)
        adapted.name = adapted.adapter = name
        return adapted

    def weaknesses(self) -> list[str]:
        """What the template does that lets users forge turns, or would; nothing where they are trusted."""
        if self.template is None or self.trust_message_tokens:
            return []
        tokenize = functools.partial(self.engine.tokenize_segments, add_special=False, markers=self._markers)
        return list(weaknesses(self.template, tokenize))

    def check_count(self, requests: int) -> None:
        """Refuse a call that makes more requests than the engine ever takes, before anything is done for it.

        Raises:
            InvalidRequest: it makes too many.
        """
        self.engine.check_count(requests)

    async def tokenize(self, prompt: str) -> tuple[int, ...]:
        """Tokens of a plain prompt, with the model's BOS token where it wants one.

        Whoever writes the whole prompt writes its control tokens, too.

        Raises:
            InvalidRequest: the prompt is empty, or too long whatever its tokens are.
        """
        (tokens,) = await self.tokenize_all([prompt])
        return tokens

    async def tokenize_all(self, prompts: Sequence[str]) -> list[tuple[int, ...]]:
        """Tokens of several plain prompts, in their order.

        Raises:
            InvalidRequest: there are too many, or one is empty or too long whatever its tokens are.
        """
        self.check_count(len(prompts))
        if not all(prompts):
            raise InvalidRequest("the prompt is empty; send at least one character", param="prompt")
        if sum(map(len, prompts)) <= QUICK_CHARACTERS:
            return [self._tokens([Segment(prompt, True)], add_special=True) for prompt in prompts]
        return await long_texts.run(self._tokens_of_all, prompts)

    async def tokenize_chat(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> tuple[int, ...]:
        """Tokens of a conversation, rendered with the model's chat template.

        Control tokens are read only in what the template itself wrote, unless messages are trusted.

        Args:
            messages: OpenAI's, tool calls and their results among them.
            tools: shown to the model, by its template or in the system message.

        Raises:
            InvalidRequest: there are no messages, more than can fit, or the template refuses them.
            NoChatTemplate: the model has no template.
        """
        if not messages:
            raise InvalidRequest("messages is empty; send at least one message", param="messages")
        if self.template is None:
            raise NoChatTemplate(
                f"model {self.name!r} has no chat template in its GGUF: send a plain prompt instead, "
                "or start the server with --chat-template FILE"
            )
        most = self.engine.max_sequence_tokens
        if len(messages) > most:
            raise PromptTooLong(
                f"messages has {len(messages)} entries, but the context holds {most} tokens: send fewer",
                param="messages",
            )
        characters = sum(map(_characters, messages))
        others = len(messages) + len(tools) + sum(map(_calls, messages))
        if characters + _CHARACTERS_OF_OTHERS * others <= QUICK_CHARACTERS:
            return self._tokens_of_chat(self.template, messages, tools)
        return await long_texts.run(self._tokens_of_long_chat, self.template, messages, tools, characters)

    def _tokens_of_long_chat(
        self, template: ChatTemplate, messages: Sequence[Message], tools: Sequence[Tool], characters: int
    ) -> tuple[int, ...]:
        with self.engine.hold_vocabulary():
            self.engine.check_length(characters, "messages")
            return self._tokens_of_chat(template, messages, tools)

    def _tokens_of_chat(
        self, template: ChatTemplate, messages: Sequence[Message], tools: Sequence[Tool]
    ) -> tuple[int, ...]:
        native = shows_tools(template.source)
        prompt = template.render(
            for_template(plain_messages(messages), tools, shows_tools=native),
            tools=[tool.definition for tool in tools] if native else None,
        )
        # A template writes the BOS token itself, so the tokenizer must not add a second one.
        add_special = not template.writes_bos(prompt)
        segments = (Segment(prompt.text, True),) if self.trust_message_tokens else prompt.segments
        return self._tokens(segments, add_special=add_special)

    def _tokens_of_all(self, prompts: Sequence[str]) -> list[tuple[int, ...]]:
        with self.engine.hold_vocabulary():
            for prompt in prompts:
                self.engine.check_length(len(prompt), "prompt")
            return [self._tokens([Segment(prompt, True)], add_special=True) for prompt in prompts]

    def _tokens(self, segments: Sequence[Segment], *, add_special: bool) -> tuple[int, ...]:
        stop_if_abandoned()
        tokens = self.engine.tokenize_segments(segments, add_special=add_special, markers=self._markers)
        return tuple(tokens)

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


def _characters(message: Message) -> int:
    """How long a message's content is at least; it may be malformed."""
    content = message.get("content") if isinstance(message, Mapping) else None
    if isinstance(content, list):  # parts come on lines of their own
        texts = (part.get("text") for part in content if isinstance(part, Mapping))
        return len(content) + sum(len(text) for text in texts if isinstance(text, str))
    return len(content) if isinstance(content, str) else 0


def _calls(message: Message) -> int:
    """How many calls a message has; one whose arguments are long counts for more."""
    calls = message.get("tool_calls") if isinstance(message, Mapping) else None
    return (
        sum(1 + len(str(call)) // _CHARACTERS_OF_OTHERS for call in calls) if isinstance(calls, list) else 0
    )


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
