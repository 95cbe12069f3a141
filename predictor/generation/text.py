"""Text in, text out: what every protocol calls.

One `TextGenerator` stands between the protocols and the engine: it turns prompts and messages into tokens
and collects streams into completions, so that no protocol does so for itself.
"""

from __future__ import annotations

import asyncio
import copy
import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from predictor.background import stop_if_abandoned
from predictor.chat.format import ChatFormat
from predictor.chat.grammar import Lazily
from predictor.chat.prompting import Conversation, Prompt
from predictor.chat.tools import Tool
from predictor.chat.turns import own_text, weaknesses
from predictor.engine.infill_tokens import InfillTokens
from predictor.engine.request import FinishReason, Request, TokenLogprob
from predictor.engine.special_tokens import Segment
from predictor.engine.vocabulary import Vocabulary
from predictor.errors import InvalidRequest, NoChatTemplate, PromptTooLong
from predictor.generation.chat import ChatAnswer, ChatReader, ChatRequest, PreparedChat, read_answer
from predictor.generation.streams import RequestStream
from predictor.generation.tokens import QUICK_CHARACTERS, TokenEngine, long_texts
from predictor.structured.compiler import ConstraintCompiler, MakeConstraint
from predictor.structured.thinking import ThoughtMarks, with_thought_budget

Message = Mapping[str, Any]

_CHARACTERS_OF_OTHERS = 64  # what a message, a call or a tool counts for beside its text


class TextEngine(TokenEngine, Protocol):
    """The part of `predictor.engine.Engine` that text generation needs."""

    def check_count(self, requests: int) -> None: ...

    def tokenize_segments(
        self, segments: Sequence[Segment], *, add_special: bool, markers: frozenset[int] = frozenset()
    ) -> list[int]: ...

    def infill_tokens(self) -> InfillTokens | None: ...

    def markers(self, source: str) -> frozenset[int]: ...

    def control_tokens(self, texts: Iterable[str]) -> dict[int, bytes]: ...

    def vocabulary(self) -> Vocabulary: ...

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
        prompt_logprobs: one entry for each token of the prompt but the first, when asked for.
    """

    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()
    stop_string: str | None = None
    prompt_logprobs: tuple[TokenLogprob, ...] = ()


class TextGenerator:
    """Generates text with one model.

    Args:
        name: the model's name in every protocol.
        engine: runs the sequences.
        chat_format: how the model chats, None where it has no chat template.
        adapter: name of the engine's adapter to use.
        trust_message_tokens: read control tokens in what users write as control tokens.
    """

    def __init__(
        self,
        name: str,
        engine: TextEngine,
        chat_format: ChatFormat | None,
        adapter: str | None = None,
        *,
        trust_message_tokens: bool = False,
    ) -> None:
        self.name = name
        self.adapter = adapter
        self.engine = engine
        self.chat_format = chat_format
        self.trust_message_tokens = trust_message_tokens
        self._markers: frozenset[int] = frozenset()
        self._marks: dict[int, bytes] = {}
        if chat_format is not None:
            self._markers = engine.markers(own_text(chat_format.template))
            self._marks = engine.control_tokens(chat_format.marks())
        self.constraints = ConstraintCompiler(engine.vocabulary, engine.hold_vocabulary)

    def with_adapter(self, name: str) -> TextGenerator:
        """The same model with one of its adapters, under the adapter's name."""
        adapted = copy.copy(self)
        adapted.name = adapted.adapter = name
        return adapted

    def weaknesses(self) -> list[str]:
        """What the template does that lets users forge turns, or would; nothing where they are trusted."""
        if self.chat_format is None or self.trust_message_tokens:
            return []
        tokenize = functools.partial(self.engine.tokenize_segments, add_special=False, markers=self._markers)
        return list(weaknesses(self.chat_format.template, tokenize))

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

    async def tokenize_chat(self, conversation: Conversation | Sequence[Message]) -> tuple[int, ...]:
        """Tokens of a conversation, or of bare messages, rendered with the model's chat template.

        Raises:
            InvalidRequest: there are no messages, more than can fit, or the template refuses them.
            NoChatTemplate: the model has no template.
        """
        if not isinstance(conversation, Conversation):
            conversation = Conversation(conversation)
        _, _, tokens = await self._chat_prompt(conversation)
        return tokens

    async def show_chat(self, conversation: Conversation) -> tuple[str, tuple[int, ...]]:
        """What the model's chat template makes of a conversation, and its tokens.

        Raises:
            InvalidRequest: there are no messages, more than can fit, or the template refuses them.
            NoChatTemplate: the model has no template.
        """
        _, prompt, tokens = await self._chat_prompt(conversation)
        return prompt.text, tokens

    async def prepare_chat(self, request: ChatRequest) -> PreparedChat:
        """A chat as the engine takes it.

        Control tokens are read only in what the template itself wrote, unless messages are trusted.

        Raises:
            InvalidRequest: there are no messages, more than can fit, the template refuses them, or a schema
                can't be used.
            NoChatTemplate: the model has no template.
        """
        conversation = replace(request.conversation, thought_tokens=request.thought_tokens)
        chat_format, prompt, tokens = await self._chat_prompt(conversation)
        make = await self._constraint(chat_format, prompt, request)
        return PreparedChat(tokens, make, self._marks, chat_format, prompt, request)

    async def _chat_prompt(self, conversation: Conversation) -> tuple[ChatFormat, Prompt, tuple[int, ...]]:
        messages = conversation.messages
        if not messages:
            raise InvalidRequest("messages is empty; send at least one message", param="messages")
        if self.chat_format is None:
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
        others = len(messages) + len(conversation.tools) + sum(map(_calls, messages))
        if characters + _CHARACTERS_OF_OTHERS * others <= QUICK_CHARACTERS:
            prompt, tokens = self._tokens_of_chat(self.chat_format, conversation)
        else:
            prompt, tokens = await long_texts.run(
                self._tokens_of_long_chat, self.chat_format, conversation, characters
            )
        return self.chat_format, prompt, tokens

    def _tokens_of_long_chat(
        self, chat_format: ChatFormat, conversation: Conversation, characters: int
    ) -> tuple[Prompt, tuple[int, ...]]:
        with self.engine.hold_vocabulary():
            self.engine.check_length(characters, "messages")
            return self._tokens_of_chat(chat_format, conversation)

    def _tokens_of_chat(
        self, chat_format: ChatFormat, conversation: Conversation
    ) -> tuple[Prompt, tuple[int, ...]]:
        prompt = chat_format.prompt(conversation)
        # A template writes the BOS token itself, so the tokenizer must not add a second one.
        add_special = not chat_format.template.writes_bos(prompt.rendered)
        segments = prompt.rendered.segments
        if self.trust_message_tokens:
            segments = (Segment(prompt.text, True),)
        return prompt, self._tokens(segments, add_special=add_special)

    async def _constraint(
        self, chat_format: ChatFormat, prompt: Prompt, request: ChatRequest
    ) -> MakeConstraint | None:
        control = {text.decode("utf-8", "replace"): token for token, text in self._marks.items()}
        tools = request.conversation.tools
        if not chat_format.has_json_arguments:
            tools = [await self._enforceable(tool) for tool in tools]
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
        end = self.engine.tokenize_segments([Segment(thought.closing, True)], add_special=False)
        pieces = await self.constraints.pieces(self._marks)
        bounded = with_thought_budget(make, thought, pieces, end, request.thought_tokens)
        return MakeConstraint(bounded, () if make is None else make.not_enforced)

    async def _enforceable(self, tool: Tool) -> Tool:
        """A tool of whose schema all that is left could be enforced in JSON."""
        schema, left = await self.constraints.enforceable(tool.parameters, "tools", strict=tool.strict)
        return replace(tool, parameters=schema, not_enforced=left) if left else tool

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


def _thought_marks(chat_format: ChatFormat, prompt: Prompt) -> ThoughtMarks | None:
    """Where thoughts begin and end in answers to a prompt, None where there can't be any."""
    if not (prompt.in_thought or prompt.may_think):
        return None
    start, end, closing = chat_format.thought_marks()
    return ThoughtMarks(start.encode(), end.encode(), closing, prompt.in_thought)


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
    prompt_logprobs: list[TokenLogprob] = []
    async for delta in stream:
        text.append(delta.text)
        prompt_logprobs.extend(delta.prompt_logprobs)
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
        prompt_logprobs=tuple(prompt_logprobs),
    )
