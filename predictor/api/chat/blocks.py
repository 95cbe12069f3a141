"""An answer as the blocks that it consists of, for protocols that tell where each begins and ends."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum

from predictor.api.chat.asking import AskedChat
from predictor.chat.events import ArgumentsPart, CallStarted, Event, Text, Thought
from predictor.engine.request import Delta, FinishReason, TokenLogprob
from predictor.generation.streams import RequestStream


class BlockKind(Enum):
    """What a block is."""

    THOUGHT = "thought"
    TEXT = "text"
    CALL = "call"


@dataclass(slots=True, eq=False)
class Block:
    """A thought, a text or a call.

    Attributes:
        index: its place in the answer, from 0.
        kind: what it is.
        name: of the function that is called.
        parts: its text so far; of a call, the JSON text of its arguments.
        logprobs: of a text's tokens, where they were asked for.
        is_cut: whether the answer ended in the middle of it.
        id: unique letters and digits.
    """

    index: int
    kind: BlockKind
    name: str = ""
    parts: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    is_cut: bool = False
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def text(self) -> str:
        """What it says so far."""
        return "".join(self.parts)


@dataclass(frozen=True, slots=True)
class BlockStarted:
    """A block has begun."""

    block: Block


@dataclass(frozen=True, slots=True)
class BlockPart:
    """The next part of a block, with the log-probabilities of a text's tokens."""

    block: Block
    text: str
    logprobs: Sequence[TokenLogprob] = ()


@dataclass(frozen=True, slots=True)
class BlockEnded:
    """A block has come to its end."""

    block: Block


BlockStep = BlockStarted | BlockPart | BlockEnded


@dataclass(frozen=True, slots=True)
class AnswerEnd:
    """How an answer ended.

    Attributes:
        reason: why.
        has_calls: whether it has called a function to the end.
        completion_tokens, cached_tokens: tokens generated, and those of the prompt that were in the cache.
        reasoning_tokens: tokens of its thoughts, None where the model never thinks.
        stop_string: the stop string that ended it, if one did.
    """

    reason: FinishReason
    has_calls: bool
    completion_tokens: int
    cached_tokens: int
    reasoning_tokens: int | None
    stop_string: str | None


class BlockReader:
    """Puts the events of one answer into blocks.

    Attributes:
        blocks: all so far.
    """

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self._is_open = False
        self._logprobs: list[TokenLogprob] = []

    def read(self, events: Sequence[Event], logprobs: Sequence[TokenLogprob] = ()) -> Iterator[BlockStep]:
        """What the next events do to the blocks."""
        self._logprobs += logprobs
        for event in events:
            match event:
                case Thought(text):
                    yield from self._add(BlockKind.THOUGHT, text)
                case Text(text):
                    yield from self._add(BlockKind.TEXT, text)
                case CallStarted(_, name):
                    yield from self._start(BlockKind.CALL, name)
                case ArgumentsPart(_, text):
                    yield from self._part(text)

    def finish(self, *, calls: int, is_cut: bool) -> Iterator[BlockStep]:
        """End the last block.

        Args:
            calls: how many were read to their end.
            is_cut: whether the answer ended before the model ended it.
        """
        if self._is_open:
            last = self.blocks[-1]
            begun = sum(block.kind is BlockKind.CALL for block in self.blocks)
            last.is_cut = begun > calls if last.kind is BlockKind.CALL else is_cut
            yield from self._end()

    def _add(self, kind: BlockKind, text: str) -> Iterator[BlockStep]:
        if not self._is_open or self.blocks[-1].kind is not kind:
            yield from self._start(kind)
        yield from self._part(text)

    def _start(self, kind: BlockKind, name: str = "") -> Iterator[BlockStep]:
        yield from self._end()
        self.blocks.append(Block(len(self.blocks), kind, name))
        self._is_open = True
        yield BlockStarted(self.blocks[-1])

    def _part(self, text: str) -> Iterator[BlockStep]:
        block = self.blocks[-1]
        block.parts.append(text)
        # Those of a mark, a thought or a call have nowhere to go.
        logprobs, self._logprobs = self._logprobs, []
        if block.kind is BlockKind.TEXT:
            block.logprobs += logprobs
            yield BlockPart(block, text, logprobs)
        else:
            yield BlockPart(block, text)

    def _end(self) -> Iterator[BlockStep]:
        if self._is_open:
            self._is_open = False
            yield BlockEnded(self.blocks[-1])


class BlockAnswer:
    """The one answer to a chat, read block by block.

    Args:
        asked: the chat.

    Attributes:
        stream: the engine's.
        end: how it ended, None until it has.
    """

    def __init__(self, asked: AskedChat) -> None:
        self._reader = asked.readers[0]
        self._blocks = BlockReader()
        self.prompt_tokens = asked.prompt_tokens
        (self.stream,) = asked.start()
        self.end: AnswerEnd | None = None

    @property
    def blocks(self) -> Sequence[Block]:
        """All blocks so far."""
        return self._blocks.blocks

    @property
    def streams(self) -> Sequence[RequestStream]:
        """The engine's stream, as `EventStream` wants it."""
        return (self.stream,)

    async def steps(self) -> AsyncGenerator[BlockStep, None]:
        """What happens to the blocks, as it happens.

        Raises:
            NotReady: the server was shut down.
            EngineFailure: llama.cpp failed.
        """
        async for delta in self.stream:
            for step in self._blocks.read(self._reader.push(delta), delta.logprobs):
                yield step
            if delta.finish_reason is not None:
                is_cut = delta.finish_reason is not FinishReason.STOP
                for step in self._blocks.finish(calls=self._reader.calls, is_cut=is_cut):
                    yield step
                self.end = self._end(delta, delta.finish_reason)

    async def read(self) -> AnswerEnd:
        """Read the answer to its end; frees its sequence when cancelled.

        Raises:
            NotReady: the server was shut down.
            EngineFailure: llama.cpp failed.
        """
        try:
            async for _ in self.steps():
                pass
        finally:
            self.stream.cancel()
        assert self.end is not None
        return self.end

    def _end(self, delta: Delta, reason: FinishReason) -> AnswerEnd:
        return AnswerEnd(
            reason,
            self._reader.has_calls,
            delta.completion_tokens,
            delta.cached_tokens,
            self._reader.reasoning_tokens,
            delta.stop_string,
        )
