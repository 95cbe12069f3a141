"""One request from arrival to end, as metrics, logs and traces see it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from predictor.engine.request import FinishReason
from predictor.engine.sequence import Sequence

# vLLM's names, which dashboards select by.
_REASONS = {
    FinishReason.STOP: "stop",
    FinishReason.LENGTH: "length",
    FinishReason.CANCELLED: "abort",
    None: "error",
}
FINISHED_REASONS = tuple(_REASONS.values())


@dataclass(frozen=True, slots=True)
class FinishedRequest:
    """A sequence that has ended, whatever way. All durations are seconds.

    Attributes:
        id: the request's id.
        reason: "stop", "length", "abort" (cancelled, mostly by a client that left) or "error".
        prompt_tokens, completion_tokens: lengths; the end-of-generation token isn't counted.
        cached_tokens: prompt tokens that were taken from the prefix cache.
        preemptions: how often it gave up its place.
        queue: from arrival to the first admission, or to the end if it was never admitted.
        prefill: from admission to the first token; None where there was none.
        decode: from the first token to the last; None where there was none.
        time_to_first_token: from arrival to the first token; None where there was none.
        total: from arrival to the end.
        adapter: name of the adapter it used, None for the model alone.
    """

    id: str
    reason: str
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    preemptions: int
    queue: float
    prefill: float | None
    decode: float | None
    time_to_first_token: float | None
    total: float
    adapter: str | None = None

    @classmethod
    def of(cls, sequence: Sequence, reason: FinishReason | None, now: float) -> Self:
        """What is known when the engine reports the end at `now` (monotonic seconds)."""
        first = sequence.first_token or None
        return cls(
            id=sequence.request.id,
            reason=_REASONS[reason],
            prompt_tokens=len(sequence.request.prompt),
            completion_tokens=sequence.num_generated,
            cached_tokens=sequence.cached_tokens,
            preemptions=sequence.preemptions,
            queue=(sequence.admitted or now) - sequence.arrived,
            prefill=first and first - sequence.admitted,
            decode=first and sequence.last_token - first,
            time_to_first_token=first and first - sequence.arrived,
            total=now - sequence.arrived,
            adapter=sequence.adapter,
        )
