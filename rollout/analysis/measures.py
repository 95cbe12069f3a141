"""The figures that are tested, each reduced to requests that are bad or not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from rollout.analysis.counters import Counters, Latency
from rollout.analysis.limits import Limit, Limits
from rollout.analysis.sequential import Claim, Counts, RateLimit

QUANTILE = 0.95
# So far beyond its limit a canary must not pass: a share of all requests; a factor; deaths an hour. Waits in
# a queue depend so much on each other that for them it is a larger factor.
FAR_ERRORS = 0.04
FAR_WORK = 1.2
FAR_WAIT = 2.5
FAR_DEATHS = 11.5
# Far out lie few requests: that a canary isn't slow shows several times sooner where there are more.
QUANTILE_FAR_WORK = 0.75
QUANTILE_FAR_WAIT = 0.90
# A percentile of fewer requests is no ground to compare with.
LEAST_REFERENCE = 20
_MINUTE = 60.0


@dataclass(frozen=True, slots=True)
class Points:
    """From where on a request of the stable revision is bad, and one of the canary; seconds where it is time.

    Attributes:
        kept: for the question whether the limit is kept.
        far: for the question whether the canary is far beyond it.
    """

    kept: tuple[float, float] = (0.0, 0.0)
    far: tuple[float, float] = (0.0, 0.0)

    def of(self, claim: Claim) -> tuple[float, float]:
        """For one of the questions."""
        return self.kept if claim is Claim.KEPT else self.far


class Measure(Protocol):
    """A figure and how it is tested."""

    @property
    def name(self) -> str: ...

    @property
    def unit(self) -> str: ...

    @property
    def limit(self) -> Limit: ...

    @property
    def by_requests(self) -> bool:
        """Whether requests are counted, which may depend on each other, rather than minutes."""

    def part(self, counters: Counters) -> Counters:
        """What the test needs of the counters."""

    def from_waiting(self, counters: Counters) -> bool:
        """Whether what is bad in them comes from waiting, which grows with what a pod has to do."""

    @property
    def wait(self) -> Latency:
        """How long the waiting is that it depends on."""

    @property
    def grows_with_load(self) -> bool:
        """Whether pods with more to do are worse by nature."""

    def line(self, claim: Claim) -> RateLimit:
        """The canary's rate: at most this where the limit is kept, at least this where it is far beyond."""

    def points(self, stable: Counters) -> Points | None:
        """Where a request begins to be bad, given earlier requests; None where that can't be said yet."""

    def counts(self, counters: Counters, point: float) -> Counts:
        """The bad ones."""

    def observed(self, counters: Counters) -> bool:
        """Whether there is anything of it."""

    def value(self, counters: Counters) -> float | None:
        """The figure itself, for people."""

    def value_limit(self, stable: Counters) -> float | None:
        """The limit for the figure itself."""


@dataclass(frozen=True, slots=True)
class ErrorRate:
    """Requests that failed, were refused, given up before the first token, or lost with a process."""

    limit: Limit
    name: str = "error rate"
    unit: str = "%"
    by_requests: bool = True
    wait: Latency = Latency.FIRST_TOKEN
    grows_with_load: bool = False

    def part(self, counters: Counters) -> Counters:
        return Counters(counters.good, counters.bad, counters.given_up)

    def from_waiting(self, counters: Counters) -> bool:
        return counters.given_up > counters.bad / 2

    def line(self, claim: Claim) -> RateLimit:
        far = FAR_ERRORS if claim is Claim.BROKEN else 0.0
        return RateLimit(self.limit.ratio, self.limit.plus + far)

    def points(self, stable: Counters) -> Points | None:
        return Points()

    def counts(self, counters: Counters, point: float) -> Counts:
        return counters.errors

    def observed(self, counters: Counters) -> bool:
        return counters.errors.total > 0

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
    """A 95th percentile, tested as a share of requests.

    Relative to the stable revision: with T its 95th percentile so far, the share of the canary's requests
    above the limit for T may be no larger than the share of the stable's above T. Far beyond is a canary
    whose share is as large at a lower percentile, with `FAR_WORK` or `FAR_WAIT` times the limit. Both are
    counted in the same stretches of time, so that what slows both down counts for neither. An absolute limit
    may be passed by 5% of the requests.

    A request that is still without a token counts as soon as it has waited longer than the point, and one
    that was given up later than that counts too.

    Tokens of one request depend on each other. The tokens of a request therefore count as one observation
    together: evidence is the geometric mean of theirs, whose expectation is at most the arithmetic mean's
    whatever the dependence.
    """

    latency: Latency
    limit: Limit
    name: str
    unit: str = "s"
    by_requests: bool = True
    grows_with_load: bool = True

    @property
    def wait(self) -> Latency:
        return self.latency

    def from_waiting(self, counters: Counters) -> bool:
        return True

    def part(self, counters: Counters) -> Counters:
        if self.latency is Latency.FIRST_TOKEN:
            return Counters(latencies={self.latency: counters.latency(self.latency)}, waited=counters.waited)
        needed = {self.latency, self._of_requests}
        return Counters(latencies={name: counters.latency(name) for name in needed})

    def line(self, claim: Claim) -> RateLimit:
        return RateLimit(1.0, 0.0) if self.limit.ratio else RateLimit(0.0, 1 - QUANTILE)

    def points(self, stable: Counters) -> Points | None:
        waits = self.latency in (Latency.FIRST_TOKEN, Latency.QUEUE)
        far = FAR_WAIT if waits else FAR_WORK
        if not self.limit.ratio:
            return Points((0.0, self.limit.plus), (0.0, far * self.limit.plus))
        if self._requests(stable) < LEAST_REFERENCE:
            return None
        seen = stable.latency(self.latency)
        slow = seen.quantile(QUANTILE_FAR_WAIT if waits else QUANTILE_FAR_WORK)
        slower = seen.quantile(QUANTILE)
        if slow is None or slower is None:
            return None
        return Points((slower, self.limit.at(slower)), (slow, far * self.limit.at(slow)))

    def counts(self, counters: Counters, point: float) -> Counts:
        answered = counters.latency(self.latency)
        if self.latency is Latency.FIRST_TOKEN:
            above = counters.waited.above(point).bad
            return Counts(above, above + answered.up_to(point))
        counts = answered.above(point)
        weight = min(1.0, self._requests(counters) / counts.total) if counts.total else 0.0
        return Counts(counts.bad * weight, counts.total * weight)

    def observed(self, counters: Counters) -> bool:
        return counters.latency(self.latency).count > 0

    def _requests(self, counters: Counters) -> float:
        return counters.latency(self._of_requests).count

    @property
    def _of_requests(self) -> Latency:
        """The histogram with one observation a request."""
        return Latency.FIRST_TOKEN if self.latency is Latency.INTER_TOKEN else self.latency

    def value(self, counters: Counters) -> float | None:
        return counters.latency(self.latency).quantile(QUANTILE)

    def value_limit(self, stable: Counters) -> float | None:
        quantile = self.value(stable)
        return self.limit.at(quantile or 0.0) if quantile is not None or not self.limit.ratio else None


@dataclass(frozen=True, slots=True)
class Deaths:
    """Processes that ended unasked, by the hour that a pod runs. A minute with a death in it is a bad one."""

    limit: Limit
    name: str = "deaths of processes"
    unit: str = "/h"
    by_requests: bool = False
    wait: Latency = Latency.FIRST_TOKEN
    grows_with_load: bool = False

    def from_waiting(self, counters: Counters) -> bool:
        return False

    def part(self, counters: Counters) -> Counters:
        return Counters(deaths=counters.deaths, pod_seconds=counters.pod_seconds)

    def line(self, claim: Claim) -> RateLimit:
        far = FAR_DEATHS if claim is Claim.BROKEN else 0.0
        return RateLimit(self.limit.ratio, (self.limit.plus + far) / _MINUTE)

    def points(self, stable: Counters) -> Points | None:
        return Points()

    def counts(self, counters: Counters, point: float) -> Counts:
        minutes = counters.pod_seconds / _MINUTE
        return Counts(min(counters.deaths, minutes), minutes)

    def observed(self, counters: Counters) -> bool:
        return counters.pod_seconds > 0

    def value(self, counters: Counters) -> float | None:
        hours = counters.pod_seconds / _MINUTE**2
        return counters.deaths / hours if hours else None

    def value_limit(self, stable: Counters) -> float | None:
        return self.limit.at(self.value(stable) or 0.0)


def measures(limits: Limits) -> list[Measure]:
    """The figures that have a limit."""
    chosen: list[Measure] = []
    if limits.error_rate:
        chosen.append(ErrorRate(limits.error_rate))
    for latency, limit, name in (
        (Latency.FIRST_TOKEN, limits.first_token, "p95 time to first token"),
        (Latency.PROMPT, limits.first_token, "p95 time of the prompt"),
        (Latency.INTER_TOKEN, limits.inter_token, "p95 inter-token latency"),
        (Latency.QUEUE, limits.queue, "p95 time in the queue"),
    ):
        if limit:
            chosen.append(Percentile(latency, limit, name))
    if limits.deaths:
        chosen.append(Deaths(limits.deaths))
    return chosen
