"""What a pod has counted.

Names and meanings of the metrics are in docs/metrics.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from rollout.analysis.histogram import EMPTY, Histogram
from rollout.analysis.sequential import Counts

PREFIX = "kserve_llamacpp_"
ENDED = PREFIX + "request_success_total"
REFUSED = PREFIX + "request_rejected_total"
RUNNING = PREFIX + "num_requests_running"
WAITING = PREFIX + "num_requests_waiting"
ENDED_UNANSWERED = PREFIX + "ended_unanswered_wait_seconds"
UNANSWERED = PREFIX + "num_requests_unanswered"
STARTED = "process_start_time_seconds"

# A client that left while its answer flowed, or sent what can't be served, tells nothing about the revision.
_GOOD_ENDS = ("stop", "length")
_BAD_ENDS = ("error",)
# By the client, where no token has come yet.
_GIVEN_UP = ("abort",)
_BAD_REFUSALS = ("shutting_down",)
_FULL = ("queue_full",)
# Labels that a metric has by itself; all others tell who scraped it.
_OWN_LABELS = ("model_name", "finished_reason", "reason", "le")


class Latency(StrEnum):
    """The histograms that are compared; the values are their names without prefix."""

    FIRST_TOKEN = "time_to_first_token_seconds"  # noqa: S105
    INTER_TOKEN = "inter_token_latency_seconds"  # noqa: S105
    QUEUE = "request_queue_time_seconds"
    PROMPT = "request_prefill_time_seconds"


_BUCKETS = (*(PREFIX + latency for latency in Latency), ENDED_UNANSWERED)
NAMES = (
    *(ENDED, REFUSED, RUNNING, WAITING, STARTED, UNANSWERED, f"{ENDED_UNANSWERED}_count"),
    *(f"{name}_bucket" for name in _BUCKETS),
)


class Sample(NamedTuple):
    """One line of Prometheus' text format."""

    name: str
    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True, slots=True)
class Counters:
    """Requests and latencies, of one pod or summed over several, in all or since an earlier look.

    Attributes:
        good: requests that were answered.
        bad: requests that failed, were refused, were given up before the first token, or were lost.
        given_up: of these, those refused for a full queue or given up, which depend on what a pod has to do.
        latencies: in seconds, of what was answered.
        waited: from arrival to the first token; where none came, for as long as the client waited, or has
            waited so far. Its count is the number of requests that arrived.
        deaths: processes that ended and weren't asked to.
        pod_seconds: for how long that was counted, times pods.
    """

    good: float = 0.0
    bad: float = 0.0
    given_up: float = 0.0
    latencies: dict[Latency, Histogram] = field(default_factory=dict)
    waited: Histogram = EMPTY
    deaths: float = 0.0
    pod_seconds: float = 0.0

    @property
    def errors(self) -> Counts:
        """Failed requests among all."""
        return Counts(self.bad, self.good + self.bad)

    def latency(self, latency: Latency) -> Histogram:
        """One of the histograms, empty where nothing was observed."""
        return self.latencies.get(latency, EMPTY)

    def __add__(self, other: Counters) -> Counters:
        return Counters(
            self.good + other.good,
            self.bad + other.bad,
            self.given_up + other.given_up,
            {name: self.latency(name) + other.latency(name) for name in self.latencies | other.latencies},
            self.waited + other.waited,
            self.deaths + other.deaths,
            self.pod_seconds + other.pod_seconds,
        )

    def __sub__(self, other: Counters) -> Counters:
        return Counters(
            self.good - other.good,
            self.bad - other.bad,
            self.given_up - other.given_up,
            {name: self.latency(name) - other.latency(name) for name in self.latencies | other.latencies},
            self.waited - other.waited,
            self.deaths - other.deaths,
            self.pod_seconds - other.pod_seconds,
        )


@dataclass(frozen=True, slots=True)
class PodLook:
    """A pod at one moment.

    Attributes:
        counters: since the process began; None where the pod was seen and its metrics weren't.
        in_hand: requests that have arrived and not ended.
        waiting: of these, requests in the queue.
        started: when the process began, Unix seconds; 0 where that isn't told.
        restarts: of the pod's containers; None where that isn't told.
        ready: whether it gets requests.
    """

    counters: Counters | None
    in_hand: float = 0.0
    waiting: float = 0.0
    started: float = 0.0
    restarts: int | None = None
    ready: bool = True


def read_look(samples: Iterable[Sample], restarts: int | None = None) -> PodLook:
    """The look that the samples of one pod make; several models in it are added up.

    A series that several jobs scrape counts once: the highest value is the newest, or the older process's
    until all jobs have seen the new one.
    """
    found = list(samples)
    scraped = {_scraper(labels) for name, labels, _ in found if name.startswith(PREFIX)}
    newest: dict[tuple[str, tuple[str | None, ...]], float] = {}
    for name, labels, value in found:
        if name == STARTED and _scraper(labels) not in scraped:
            continue  # another container's
        key = name, tuple(labels.get(label) for label in _OWN_LABELS)
        newest[key] = max(value, newest.get(key, value))
    sums: dict[str, float] = dict.fromkeys(("good", "bad", "given up", RUNNING, WAITING), 0.0)
    buckets: dict[str, dict[float, float]] = {name: {} for name in (*_BUCKETS, UNANSWERED)}
    started = 0.0
    for (name, (_, finished, reason, bound)), value in newest.items():
        if name == STARTED:
            started = value
        elif name in sums:
            sums[name] += value
        elif name == ENDED:
            sums["good"] += value * (finished in _GOOD_ENDS)
            sums["bad"] += value * (finished in _BAD_ENDS)
        elif name == f"{ENDED_UNANSWERED}_count":
            sums["given up"] += value * (finished in _GIVEN_UP)
        elif name == REFUSED:
            sums["bad"] += value * (reason in _BAD_REFUSALS)
            sums["given up"] += value * (reason in _FULL)
        elif (histogram := name.removesuffix("_bucket")) in buckets:
            upper = math.inf if bound is None else float(bound)
            buckets[histogram][upper] = buckets[histogram].get(upper, 0.0) + value
    histograms = {name: Histogram.of(counts) for name, counts in buckets.items()}
    unanswered = histograms[ENDED_UNANSWERED] + histograms[UNANSWERED]
    counters = Counters(
        sums["good"],
        sums["bad"] + sums["given up"],
        sums["given up"],
        {latency: histograms[PREFIX + latency] for latency in Latency},
        histograms[PREFIX + Latency.FIRST_TOKEN] + unanswered,
    )
    return PodLook(counters, sums[RUNNING] + sums[WAITING], sums[WAITING], started, restarts)


def _scraper(labels: Mapping[str, str]) -> frozenset[tuple[str, str]]:
    return frozenset(item for item in labels.items() if item[0] not in (*_OWN_LABELS, "__name__"))
