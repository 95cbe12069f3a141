"""What the engine reports while it works, for metrics and traces."""

from __future__ import annotations

import logging
from typing import Protocol

from predictor.engine.request import FinishReason
from predictor.engine.sequence import Sequence

logger = logging.getLogger(__name__)


class EngineObserver(Protocol):
    """Told of events as they happen; every method must be quick.

    All but `refused` are called on the decode thread. `GuardedObserver` keeps their exceptions from it.
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


class GuardedObserver:
    """Logs what another observer raises, since no request may fail for the sake of its metrics."""

    def __init__(self, observer: EngineObserver) -> None:
        self._observer = observer

    def token_sampled(self, sequence: Sequence, now: float, gap: float | None) -> None:
        """See `EngineObserver`."""
        try:
            self._observer.token_sampled(sequence, now, gap)
        except Exception:
            logger.exception("a token was not counted")

    def ended(self, sequence: Sequence, reason: FinishReason | None, now: float) -> None:
        """See `EngineObserver`."""
        try:
            self._observer.ended(sequence, reason, now)
        except Exception:
            logger.exception("the end of a request was not counted")

    def refused(self, count: int, reason: str) -> None:
        """See `EngineObserver`."""
        try:
            self._observer.refused(count, reason)
        except Exception:
            logger.exception("a refused request was not counted")
