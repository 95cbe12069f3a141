"""An engine that follows a script, for what a real model can't be made to do on demand: fail in mid-stream,
hang, refuse. It stands in for llama.cpp only; the HTTP server, the middleware and the routes are real.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from predictor.engine.request import Delta, FinishReason, Request
from predictor.engine.special_tokens import Segment
from predictor.engine.vocabulary import Vocabulary
from predictor.errors import InvalidRequest, PromptTooLong

FOREVER = "forever"
Step = Delta | Exception | str


class ScriptedStream:
    """Plays its steps; `FOREVER` waits until it is cancelled."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self._steps = list(steps)
        self.cancelled = asyncio.Event()

    def __aiter__(self) -> ScriptedStream:
        return self

    async def __anext__(self) -> Delta:
        if not self._steps:
            raise StopAsyncIteration
        step = self._steps.pop(0)
        if isinstance(step, Exception):
            raise step
        if isinstance(step, str):
            await self.cancelled.wait()
            return Delta("", finish_reason=FinishReason.CANCELLED)
        await asyncio.sleep(0)
        return step

    def cancel(self) -> None:
        self.cancelled.set()


@dataclass
class ScriptedEngine:
    """Tokens are the bytes of the text. `scripts[i]` is what the i-th request of a call plays."""

    context_tokens: int = 512
    places: int = 272
    scripts: list[list[Step]] = field(default_factory=list)
    refusal: Exception | None = None
    requests: list[Request] = field(default_factory=list)
    streams: list[ScriptedStream] = field(default_factory=list)

    def tokenize_segments(
        self, segments: Sequence[Segment], *, add_special: bool, markers: frozenset[int] = frozenset()
    ) -> list[int]:
        return list("".join(segment.text for segment in segments).encode())

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        return list(text.encode())

    def detokenize(self, tokens: Sequence[int], param: str) -> str:
        return bytes(tokens).decode("utf-8", "replace")

    def shown_pieces(self, tokens: Sequence[int], param: str) -> list[bytes]:
        return [bytes([token]) for token in tokens]

    def infill_tokens(self) -> None:
        return None

    def markers(self, source: str) -> frozenset[int]:
        return frozenset()

    @property
    def max_sequence_tokens(self) -> int:
        return self.context_tokens

    def check_count(self, requests: int) -> None:
        if requests > self.places:
            raise InvalidRequest(f"at most {self.places} fit", param="prompt")

    def check_length(self, characters: int, param: str) -> None:
        if characters >= self.context_tokens:
            raise PromptTooLong(f"the {param} is too long for {self.context_tokens}", param=param)

    def control_tokens(self, texts: Iterable[str]) -> dict[int, bytes]:
        return {}

    def vocabulary(self) -> Vocabulary:
        raise NotImplementedError("grammars need a real model")

    def hold_vocabulary(self) -> AbstractContextManager[None]:
        return nullcontext()

    def submit_all(self, requests: Sequence[Request]) -> list[ScriptedStream]:
        if self.refusal is not None:
            raise self.refusal
        self.requests = list(requests)
        self.streams = [ScriptedStream(self.scripts[i % len(self.scripts)]) for i in range(len(requests))]
        return self.streams


def say(*pieces: str, reason: FinishReason = FinishReason.STOP) -> list[Step]:
    """A script that generates the pieces, one token each."""
    deltas: list[Step] = [Delta(piece, completion_tokens=i + 1) for i, piece in enumerate(pieces)]
    return [*deltas, Delta("", completion_tokens=len(pieces), finish_reason=reason, cached_tokens=3)]
