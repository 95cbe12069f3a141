"""Sums of a model's requests, read from its metrics."""

from __future__ import annotations

from dataclasses import dataclass

from prometheus_client import REGISTRY

from predictor.telemetry.metrics import PREFIX

_FAILURES = ("abort", "error")


@dataclass(frozen=True, slots=True)
class ModelFigures:
    """What a model has done since the start.

    Attributes:
        finished: requests that were answered.
        failed: requests that were cut short or failed.
        steps: batches computed.
        total_seconds, queue_seconds, prefill_seconds, decode_seconds: of the answered requests together.
    """

    finished: int = 0
    failed: int = 0
    steps: int = 0
    total_seconds: float = 0.0
    queue_seconds: float = 0.0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0


def model_figures(name: str) -> ModelFigures:
    """The figures of the model that metrics know by `name`; all zero where they know none."""
    sums: dict[str, float] = {}
    failed = 0.0
    for metric in REGISTRY.collect():
        for sample in metric.samples:
            if sample.labels.get("model_name") == name and sample.name.startswith(PREFIX):
                sums[sample.name.removeprefix(PREFIX)] = sample.value
                failed += sample.value if sample.labels.get("finished_reason") in _FAILURES else 0
    return ModelFigures(
        finished=int(sums.get("e2e_request_latency_seconds_count", 0)),
        failed=int(failed),
        steps=int(sums.get("engine_steps_total", 0)),
        total_seconds=sums.get("e2e_request_latency_seconds_sum", 0.0),
        queue_seconds=sums.get("request_queue_time_seconds_sum", 0.0),
        prefill_seconds=sums.get("request_prefill_time_seconds_sum", 0.0),
        decode_seconds=sums.get("request_decode_time_seconds_sum", 0.0),
    )
