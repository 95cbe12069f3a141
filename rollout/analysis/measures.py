"""The figures that are tested, each reduced to requests that are bad or not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from rollout.analysis.counters import Counters, Latency
from rollout.analysis.limits import Limit, Limits
from rollout.analysis.sequential import Counts, RateLimit

QUANTILE = 0.95
# How much larger than the limit the rate of a canary is that must not pass, as a share of all requests.
FAR_BEYOND = 0.05
FAR_BEYOND_LATENCY = 0.15
# A percentile of fewer requests is no ground to compare with.
LEAST_REFERENCE = 20


class Measure(Protocol):
    """A figure and how it is tested."""

    @property
    def name(self) -> str: ...

    @property
    def unit(self) -> str: ...

    @property
    def limit(self) -> Limit: ...

    def rate_limit(self) -> RateLimit:
        """What the canary's rate of bad requests is held to."""

    def far_limit(self) -> RateLimit:
        """From this rate on, the canary must not pass."""

    def threshold(self, stable: Counters) -> float | None:
        """Where a request begins to be bad, given earlier requests; None where that can't be said yet."""

    def counts(self, counters: Counters, threshold: float) -> Counts:
        """The bad requests."""

    def value(self, counters: Counters) -> float | None:
        """The figure itself, for people."""

    def value_limit(self, stable: Counters) -> float | None:
        """The limit for the figure itself."""


@dataclass(frozen=True, slots=True)
class ErrorRate:
    """Requests that failed or were refused."""

    limit: Limit
    name: str = "error rate"
    unit: str = "%"

    def rate_limit(self) -> RateLimit:
        return RateLimit(self.limit.ratio, self.limit.plus)

    def far_limit(self) -> RateLimit:
        return RateLimit(self.limit.ratio, self.limit.plus + FAR_BEYOND)

    def threshold(self, stable: Counters) -> float | None:
        return 0.0 if stable.errors.total or not self.limit.ratio else None

    def counts(self, counters: Counters, threshold: float) -> Counts:
        return counters.errors

    def value(self, counters: Counters) -> float | None:
        rate = counters.errors.rate
        return None if rate is None else 100 * rate

    def value_limit(self, stable: Counters) -> float | None:
        rate = stable.errors.rate
        if rate is None and self.limit.ratio:
            return None
        return 100 * self.limit.at(rate or 0.0)


@dataclass(frozen=True, slots=True)
class Percentile:
    """A 95th percentile, tested as the share of requests above its limit.

    The limit is rounded up to a bound of the histogram, for only there can requests be counted. A limit
    relative to the stable revision lets 5% more of the canary's requests than of the stable's be above it at
    the same time, so that what slows both down counts for neither; an absolute one lets 5% be above it.

    Tokens of one request depend on each other. The tokens of a request therefore count as one observation
    together: evidence is the geometric mean of theirs, whose expectation is at most the arithmetic mean's
    whatever the dependence.
    """

    latency: Latency
    limit: Limit
    name: str
    unit: str = "s"

    def rate_limit(self) -> RateLimit:
        return RateLimit(1.0 if self.limit.ratio else 0.0, 1 - QUANTILE)

    def far_limit(self) -> RateLimit:
        limit = self.rate_limit()
        return RateLimit(limit.ratio, limit.plus + FAR_BEYOND_LATENCY)

    def threshold(self, stable: Counters) -> float | None:
        histogram = stable.latency(self.latency)
        if not self.limit.ratio:
            return self.limit.plus
        if self._requests(stable) < LEAST_REFERENCE:
            return None
        quantile = histogram.quantile(QUANTILE)
        return None if quantile is None else histogram.next_bound(self.limit.at(quantile))

    def counts(self, counters: Counters, threshold: float) -> Counts:
        counts = counters.latency(self.latency).above(threshold)
        weight = min(1.0, self._requests(counters) / counts.total) if counts.total else 0.0
        return Counts(counts.bad * weight, counts.total * weight)

    def _requests(self, counters: Counters) -> float:
        latency = Latency.FIRST_TOKEN if self.latency is Latency.INTER_TOKEN else self.latency
        return counters.latency(latency).count

    def value(self, counters: Counters) -> float | None:
        return counters.latency(self.latency).quantile(QUANTILE)

    def value_limit(self, stable: Counters) -> float | None:
        quantile = self.value(stable)
        return self.limit.at(quantile or 0.0) if quantile is not None or not self.limit.ratio else None


def measures(limits: Limits) -> list[Measure]:
    """The figures that have a limit."""
    chosen: list[Measure] = []
    if limits.error_rate:
        chosen.append(ErrorRate(limits.error_rate))
    for latency, limit, name in (
        (Latency.FIRST_TOKEN, limits.first_token, "p95 time to first token"),
        (Latency.INTER_TOKEN, limits.inter_token, "p95 inter-token latency"),
        (Latency.QUEUE, limits.queue, "p95 time in the queue"),
    ):
        if limit:
            chosen.append(Percentile(latency, limit, name))
    return chosen
