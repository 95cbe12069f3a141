"""The engine's observer: passes what happens on to metrics, logs and traces."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from predictor.engine.request import FinishReason
from predictor.engine.sequence import Sequence
from predictor.telemetry.finished import FinishedRequest
from predictor.telemetry.metrics import EngineMetrics
from predictor.telemetry.request_log import log_finished

if TYPE_CHECKING:
    from predictor.telemetry.tracing import RequestTracer


class ServingObserver:
    """An `EngineObserver`.

    Args:
        metrics: counts everything.
        tracer: makes spans; None for no traces.
    """

    def __init__(self, metrics: EngineMetrics, tracer: RequestTracer | None = None) -> None:
        self.token_sampled = metrics.token_sampled
        self.refused = metrics.refused
        self._metrics = metrics
        self._tracer = tracer
        self._piece: Callable[[int], bytes] | None = None

    def log_text(self, piece: Callable[[int], bytes]) -> None:
        """From now on, log what prompts and answers say; `piece` gives a token's bytes."""
        self._piece = piece

    def ended(self, sequence: Sequence, reason: FinishReason | None, now: float) -> None:
        """Count, log and trace the end of a request."""
        request = FinishedRequest.of(sequence, reason, now)
        self._metrics.finished(request)
        sequence.context.run(log_finished, request, self._text(sequence))
        if self._tracer is not None:
            self._tracer.finished(sequence, request, now)

    def _text(self, sequence: Sequence) -> dict[str, str]:
        if self._piece is None:
            return {}
        end = len(sequence.request.prompt)
        parts = {"prompt": sequence.tokens[:end], "answer": sequence.tokens[end:]}
        return {
            name: b"".join(map(self._piece, tokens)).decode(errors="replace")
            for name, tokens in parts.items()
        }
