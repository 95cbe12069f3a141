"""What a pod has counted, and how much more it has since an earlier look.

Names and meanings of the metrics are in docs/metrics.md.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from rollout.analysis.histogram import EMPTY, Histogram
from rollout.analysis.sequential import Counts

PREFIX = "kserve_llamacpp_"
ENDED = PREFIX + "request_success_total"
REFUSED = PREFIX + "request_rejected_total"
WAITING = PREFIX + "num_requests_waiting"

# A client that left, or sent what can't be served, tells nothing about the revision.
_GOOD_ENDS = ("stop", "length")
_BAD_ENDS = ("error",)
_BAD_REFUSALS = ("queue_full", "shutting_down")


class Latency(StrEnum):
    """The histograms that are read; the values are their names without prefix."""

    FIRST_TOKEN = "time_to_first_token_seconds"  # noqa: S105
    INTER_TOKEN = "inter_token_latency_seconds"  # noqa: S105
    QUEUE = "request_queue_time_seconds"


NAMES = (ENDED, REFUSED, WAITING, *(f"{PREFIX}{latency}_bucket" for latency in Latency))


class Sample(NamedTuple):
    """One line of Prometheus' text format."""

    name: str
    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True, slots=True)
class Counters:
    """Requests and latencies, of one pod or summed over several, in all or since an earlier look.

    Attributes:
        good, bad: requests served, and requests that ended in an error or were refused.
        latencies: in seconds.
        waiting: requests in the queue at the moment of the look.
    """

    good: float = 0.0
    bad: float = 0.0
    latencies: Mapping[Latency, Histogram] = field(default_factory=dict)
    waiting: float = 0.0

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
            {name: self.latency(name) + other.latency(name) for name in Latency},
            self.waiting + other.waiting,
        )

    def since(self, earlier: Counters) -> Counters:
        """What was counted after `earlier`; everything where the process restarted in between."""
        return Counters(
            _increase(self.good, earlier.good),
            _increase(self.bad, earlier.bad),
            {name: self.latency(name).since(earlier.latency(name)) for name in Latency},
            self.waiting,
        )


def _increase(now: float, earlier: float) -> float:
    return now if now < earlier else now - earlier


def read_counters(samples: Iterable[Sample]) -> Counters:
    """The counters in the samples of one pod; several models in it are added up."""
    good = bad = waiting = 0.0
    buckets: dict[Latency, dict[float, float]] = {name: defaultdict(float) for name in Latency}
    for name, labels, value in samples:
        if name == ENDED:
            good += value * (labels.get("finished_reason") in _GOOD_ENDS)
            bad += value * (labels.get("finished_reason") in _BAD_ENDS)
        elif name == REFUSED:
            bad += value * (labels.get("reason") in _BAD_REFUSALS)
        elif name == WAITING:
            waiting += value
        elif name in NAMES:
            latency = Latency(name.removeprefix(PREFIX).removesuffix("_bucket"))
            buckets[latency][float(labels.get("le", math.inf))] += value
    histograms = {name: Histogram(dict(sorted(counts.items()))) for name, counts in buckets.items()}
    return Counters(good, bad, histograms, waiting)


class Odometer:
    """Turns looks at a revision's pods into what happened between them.

    A pod's first look is its zero, so that requests from before the step don't count. What a pod counts after
    the last look at it is lost when it goes.
    """

    def __init__(self) -> None:
        self._last: dict[str, Counters] = {}

    def advance(self, pods: Mapping[str, Counters]) -> Counters:
        """The sum over the pods since the last look; `waiting` is the mean per pod.

        Args:
            pods: pod name to its counters now.
        """
        total = Counters()
        for pod, counters in pods.items():
            total = total + counters.since(self._last.get(pod, counters))
        self._last.update(pods)
        return Counters(total.good, total.bad, total.latencies, total.waiting / max(1, len(pods)))
