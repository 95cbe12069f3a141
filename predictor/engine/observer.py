"""What the engine reports while it works, for metrics and traces."""

from __future__ import annotations

from typing import Protocol

from predictor.engine.request import FinishReason
from predictor.engine.sequence import Sequence


class EngineObserver(Protocol):
    """Told of events as they happen; every method must be quick and must not raise.

    All but `refused` are called on the decode thread.
    """

    def token_sampled(self, sequence: Sequence, now: float, gap: float | None) -> None:
        """A token was sampled at `now` (monotonic seconds), `gap` seconds after the one before it."""

    def ended(self, sequence: Sequence, reason: FinishReason | None, now: float) -> None:
        """A sequence is done; `reason` is None where it ended with an error."""

    def refused(self, count: int, reason: str) -> None:
        """So many requests were refused at submission: "queue_full", "shutting_down" or "invalid"."""


class NoObserver:
    """Listens to nothing."""

    def token_sampled(self, sequence: Sequence, now: float, gap: float | None) -> None:
        """See `EngineObserver`."""

    def ended(self, sequence: Sequence, reason: FinishReason | None, now: float) -> None:
        """See `EngineObserver`."""

    def refused(self, count: int, reason: str) -> None:
        """See `EngineObserver`."""
