"""The Prometheus metrics behind `/metrics`.

Names and meanings follow vLLM's (https://docs.vllm.ai/en/latest/usage/metrics.html) with our own prefix.
docs/metrics.md lists them all, and a test compares that list with a running server.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from predictor.engine.config import EngineStats
from predictor.engine.sequence import Sequence
from predictor.telemetry.finished import FINISHED_REASONS, FinishedRequest

PREFIX = "kserve_llamacpp_"
REFUSALS = ("queue_full", "loading", "shutting_down", "invalid", "unauthenticated", "rate_limited")

# Ten bounds a decade where revisions are compared: coarser ones hide a latency that is half as long again.
_DECADE = (1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0)


def _decades(first: int, last: int) -> tuple[float, ...]:
    return tuple(round(step * 10.0**power, 9) for power in range(first, last) for step in _DECADE)


# Small models on a CPU give a token in 2 to 20 ms, large ones in up to a second.
TOKEN_SECONDS = (*_decades(-3, 1), 10.0)
WAIT_SECONDS = (0.005, *_decades(-2, 2), 100.0, 120.0, 180.0, 300.0, 600.0, 1800.0, 3600.0)
REQUEST_SECONDS = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0),
    *(60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0),
)


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What the info metrics say about the model.

    Attributes:
        name: the label `model_name` of every metric.
        quantisation: such as `Q4_K_M`.
        context_tokens: cells of the KV cache.
        repacked_share: of the weights, those in a format that llama.cpp repacks for this CPU; 0 to 1.
    """

    name: str
    quantisation: str
    context_tokens: int
    repacked_share: float


class EngineMetrics:
    """Metrics of one engine that are counted as things happen.

    Args:
        model_name: value of the label `model_name`.
        registry: where they are registered; kserve's `/metrics` serves the default.
    """

    def __init__(self, model_name: str, registry: CollectorRegistry = REGISTRY) -> None:
        # They would double the number of counters, and hardly anybody reads them.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._name = model_name
        self._registry = registry

        def histogram(name: str, text: str, buckets: tuple[float, ...] = REQUEST_SECONDS) -> Histogram:
            metric = Histogram(PREFIX + name, text, ["model_name"], buckets=buckets, registry=registry)
            return metric.labels(model_name)

        def counter(name: str, text: str, label: str) -> Counter:
            return Counter(PREFIX + name, text, ["model_name", label], registry=registry)

        self._first_token = histogram(
            "time_to_first_token_seconds", "From arrival to the first token.", WAIT_SECONDS
        )
        self._token_gap = histogram("inter_token_latency_seconds", "Between two tokens.", TOKEN_SECONDS)
        self._total = histogram("e2e_request_latency_seconds", "From arrival to the end.")
        unanswered = Histogram(
            PREFIX + "ended_unanswered_wait_seconds",
            "From arrival to the end of requests that ended without a token.",
            ["model_name", "finished_reason"],
            buckets=WAIT_SECONDS,
            registry=registry,
        )
        self._unanswered = {reason: unanswered.labels(model_name, reason) for reason in ("abort", "error")}
        self._queue = histogram("request_queue_time_seconds", "From arrival to admission.", WAIT_SECONDS)
        self._prefill = histogram(
            "request_prefill_time_seconds", "From admission to the first token.", WAIT_SECONDS
        )
        self._decode = histogram("request_decode_time_seconds", "From the first token to the last.")
        self._prompt_tokens = Counter(
            PREFIX + "prompt_tokens", "Prompt tokens of started requests.", ["model_name"], registry=registry
        ).labels(model_name)
        finished = counter("request_success", "Requests that ended.", "finished_reason")
        self._finished = {reason: finished.labels(model_name, reason) for reason in FINISHED_REASONS}
        self._refused = counter("request_rejected", "Requests that were refused.", "reason")
        for reason in REFUSALS:
            self._refused.labels(model_name, reason)

    def read(self, stats: Callable[[], EngineStats], *, max_adapters: int = 0) -> None:
        """From now on, `/metrics` shows what the engine counts by itself, read when it is asked for."""
        self._registry.register(EngineStatsCollector(self._name, stats, max_adapters))

    def token_sampled(self, sequence: Sequence, now: float, gap: float | None) -> None:
        """Count a token; `gap` is the time since the one before it, None for the first."""
        if gap is not None:
            self._token_gap.observe(gap)
            return
        self._first_token.observe(now - sequence.arrived)
        self._prompt_tokens.inc(len(sequence.request.prompt))

    def finished(self, request: FinishedRequest) -> None:
        """Count a request's end; its times too, unless it was cut short.

        An answer without tokens, such as an embedding, counts as a first token.
        """
        self._finished[request.reason].inc()
        if request.reason in ("abort", "error"):
            if request.time_to_first_token is None:
                self._unanswered[request.reason].observe(request.total)
            return
        if request.time_to_first_token is None:  # an embedding or a score
            self._first_token.observe(request.total)
        self._total.observe(request.total)
        self._queue.observe(request.queue)
        self._prefill.observe(request.prefill or 0.0)
        self._decode.observe(request.decode or 0.0)

    def refused(self, count: int, reason: str) -> None:
        """Count requests that were not taken, for one of `REFUSALS`."""
        self._refused.labels(self._name, reason).inc(count)


class EngineStatsCollector(Collector):
    """Metrics that are read from the engine when they are scraped.

    Args:
        model_name: value of the label `model_name`.
        stats: the engine's figures at the moment of the call.
        max_adapters: how many adapters can be in use at once.
    """

    def __init__(self, model_name: str, stats: Callable[[], EngineStats], max_adapters: int) -> None:
        self._name = model_name
        self._stats = stats
        self._max_adapters = max_adapters

    def collect(self) -> Iterator[Metric]:
        """All of them; see `Collector`."""
        stats = self._stats()
        usage = stats.kv_pinned / stats.kv_capacity if stats.kv_capacity else 0.0
        yield self._gauge("num_requests_running", "Requests in the batch.", stats.running)
        yield self._gauge("num_requests_waiting", "Requests in the queue.", stats.waiting)
        yield self._unanswered(stats.unanswered)
        yield self._gauge(
            "kv_cache_usage_perc", "Share of the KV cache that running requests use, 0 to 1.", usage
        )
        yield self._gauge(
            "prefix_cache_host_bytes", "Memory of prefixes kept beside the KV cache.", stats.host_cache_bytes
        )
        yield self._counter("generation_tokens", "Tokens sampled.", stats.generated_tokens)
        yield self._counter(
            "prefix_cache_queries", "Tokens looked up in the prefix cache.", stats.prefix_queried_tokens
        )
        yield self._counter("prefix_cache_hits", "Tokens found in the prefix cache.", stats.prefix_hit_tokens)
        yield self._counter(
            "spec_decode_num_draft_tokens",
            "Tokens guessed by speculative decoding.",
            stats.drafted_tokens,
        )
        yield self._counter(
            "spec_decode_num_accepted_tokens",
            "Guessed tokens that the model confirmed.",
            stats.accepted_tokens,
        )
        yield self._counter("num_preemptions", "Requests put back into the queue.", stats.preemptions)
        yield self._counter("engine_steps", "Batches computed.", stats.steps)
        yield self._counter("engine_decode_seconds", "Time inside llama_decode.", stats.decode_seconds)
        yield self._counter("engine_step_seconds", "Time of whole steps.", stats.step_seconds)
        yield self._lora_requests(stats)

    def _unanswered(self, waits: tuple[float, ...]) -> Metric:
        """By how long they have waited, as in a histogram; a gauge, since requests leave it again."""
        family = GaugeMetricFamily(
            PREFIX + "num_requests_unanswered",
            "Requests without a token yet that have waited for at most `le` seconds.",
            labels=["model_name", "le"],
        )
        for bound in (*WAIT_SECONDS, math.inf):
            le = floatToGoString(bound)  # type: ignore[no-untyped-call]
            family.add_metric([self._name, le], sum(wait <= bound for wait in waits))
        return family

    def _lora_requests(self, stats: EngineStats) -> Metric:
        labels = ["model_name", "max_lora", "running_lora_adapters", "waiting_lora_adapters"]
        family = GaugeMetricFamily(
            PREFIX + "lora_requests_info", "LoRA adapters in use; the value is the time.", labels=labels
        )
        values = (",".join(stats.running_adapters), ",".join(stats.waiting_adapters))
        family.add_metric([self._name, str(self._max_adapters), *values], time.time())
        return family

    def _gauge(self, name: str, text: str, value: float) -> Metric:
        family = GaugeMetricFamily(PREFIX + name, text, labels=["model_name"])
        family.add_metric([self._name], value)
        return family

    def _counter(self, name: str, text: str, value: float) -> Metric:
        family = CounterMetricFamily(PREFIX + name, text, labels=["model_name"])
        family.add_metric([self._name], value)
        return family


def register_start(
    model: ModelInfo, parts: Mapping[str, float], registry: CollectorRegistry = REGISTRY
) -> None:
    """Add what is known once the model is ready and doesn't change any more.

    Args:
        model: what is served.
        parts: seconds of each part of the start; `load` is the model's.
        registry: where they are registered.
    """

    def gauge(name: str, text: str, value: float, **labels: str) -> None:
        metric = Gauge(PREFIX + name, text, ["model_name", *labels], registry=registry)
        metric.labels(model.name, *labels.values()).set(value)

    gauge("model_load_seconds", "Loading the model and warming it up.", parts["load"] + parts["warm_up"])
    startup = Gauge(
        PREFIX + "startup_seconds", "Parts of the start.", ["model_name", "part"], registry=registry
    )
    for part, seconds in parts.items():
        startup.labels(model.name, part).set(seconds)
    gauge("repacked_weights_ratio", "Share of the weights in this CPU's fast formats.", model.repacked_share)
    gauge(
        "model_info",
        "What is served.",
        1,
        quantisation=model.quantisation,
        context_tokens=str(model.context_tokens),
    )
    gauge(
        "build_info",
        "Versions.",
        1,
        version=_version("kserve-llamacpp"),
        llama_cpp_python=_version("llama-cpp-python"),
        kserve=_version("kserve"),
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # run from a checkout that isn't installed
        return "unknown"
