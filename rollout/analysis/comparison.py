"""One step's comparison of the two revisions, fed with what was counted since the last look."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from rollout.analysis.counters import Counters
from rollout.analysis.dispersion import LEAST_BLOCKS
from rollout.analysis.limits import Limits
from rollout.analysis.measure_test import MeasureTest
from rollout.analysis.measures import QUANTILE
from rollout.analysis.sequential import Claim
from rollout.verdict import Decision, Figure, Verdict

# Waits depend on each other for as long as a queue takes to empty, which is longer the longer they are. No
# decision on a 95th percentile before so many times its length.
MANY_TIMES = 60.0
# Pods with more to do than the stable revision's ever had may be slower without being worse.
MOST_LOAD = 1.1


def load(counters: Counters) -> float:
    """Requests that arrived, per pod and second."""
    return counters.waited.count / counters.pod_seconds if counters.pod_seconds else 0.0


@dataclass(slots=True)
class Comparison:
    """All measures of one step, and what follows from them.

    Attributes:
        limits: what the canary is held to.
        steps: how many steps the rollout has; the risk of a false alarm is divided among them.
        tests: one for each measure.
        stable, canary: everything counted in this step.
    """

    limits: Limits
    steps: int
    tests: Sequence[MeasureTest]
    stable: Counters = field(default_factory=Counters)
    canary: Counters = field(default_factory=Counters)
    waiting: tuple[float, float] = (0.0, 0.0)
    seconds: float = 0.0

    def add(
        self,
        stable: Counters,
        canary: Counters,
        seconds: float,
        waiting: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        """Take in what was counted since the last call.

        Args:
            stable, canary: new counts of the two revisions.
            seconds: how long the step lasts by now.
            waiting: the mean length of both queues now.
        """
        self.stable, self.canary = self.stable + stable, self.canary + canary
        self.seconds, self.waiting = seconds, waiting
        for test in self.tests:
            test.add(stable, canary)

    def verdict(self, *, is_last: bool = False) -> Verdict:
        """What the evidence so far says.

        Args:
            is_last: whether the canary is promoted after this step, which all figures have to be settled for.
        """
        worse = [self._worse(test) for test in self.tests if self._is_worse(test)]
        if worse:
            return Verdict(Decision.ROLL_BACK, tuple(worse), self._figures())
        open_ones = [
            self._open(test)
            for test in self.tests
            if not self._is_missing(test)
            and (is_last or test.measure.by_requests)
            and not self._is_settled(test)
        ]
        if open_ones:
            return Verdict(Decision.WAIT, tuple(open_ones), self._figures())
        return Verdict(Decision.PROCEED, self._untested(), self._figures())

    def compared(self, test: MeasureTest) -> Counters:
        """What the canary is compared with."""
        return self.stable if test.reference_total is None else test.reference_total

    def _is_worse(self, test: MeasureTest) -> bool:
        if test.measure.by_requests and (self._is_early(test) or self._has_more_to_do(test)):
            return False
        # Every figure may err in every step, so each gets its part of the risk (Bonferroni).
        needed = math.log(len(self.tests) * self.steps / self.limits.roll_back_risk)
        return test.evidence(Claim.KEPT, needed) >= needed

    def _is_settled(self, test: MeasureTest) -> bool:
        if test.measure.by_requests and self._is_early(test):
            return False
        needed = -math.log(self.limits.proceed_risk)
        return test.evidence(Claim.BROKEN, needed) >= needed

    def _is_early(self, test: MeasureTest) -> bool:
        if test.past.canary.total < self.limits.least_requests or test.blocks < LEAST_BLOCKS:
            return True
        if not test.measure.from_waiting(self.canary):
            return False
        wait = self.compared(test).latency(test.measure.wait).quantile(QUANTILE)
        return wait is not None and self.seconds < MANY_TIMES * wait

    def _is_missing(self, test: MeasureTest) -> bool:
        """Whether neither revision has the figure, as one-token answers have no time between tokens."""
        if test.cannot_be_tested:
            return True
        compared = self.compared(test)
        enough = min(compared.errors.total, self.canary.errors.total) >= self.limits.least_requests
        seen = test.measure.observed(compared) or test.measure.observed(self.canary)
        return enough and not seen

    def _has_more_to_do(self, test: MeasureTest) -> bool:
        """Whether the figure can't be compared, because it grows with what a pod has to do."""
        busy = load(self.compared(test))
        grows = test.measure.from_waiting(self.canary) and test.measure.limit.ratio > 0
        return grows and busy > 0 and load(self.canary) > MOST_LOAD * busy

    def _untested(self) -> tuple[str, ...]:
        names = ", ".join(test.measure.name for test in self.tests if self._is_missing(test))
        return (f"not tested, since there is none, or nothing to compare with: {names}",) if names else ()

    def _worse(self, test: MeasureTest) -> str:
        measure = test.measure
        figure = self._figure(test)
        canary, stable = shown(figure.canary, figure.unit), shown(figure.stable, figure.unit)
        odds = math.exp(min(test.evidence(Claim.KEPT), 50))
        return (
            f"{measure.name}: {canary}, and {stable} on the stable revision; the limit is "
            f"{measure.limit.text}. {test.counted}: evidence of {odds:,.0f} to 1 that the limit is broken"
        )

    def _open(self, test: MeasureTest) -> str:
        name, total = test.measure.name, test.past.canary.total
        if not test.measure.by_requests:
            return f"{name}: too early to tell after {total:.0f} minutes of the canary's pods"
        text = f"{name}: too early to tell after {total:.0f} of the canary's requests"
        if self._has_more_to_do(test):
            times = load(self.canary) / load(self.compared(test))
            text += f"; its pods get {times:.1f} times as many each as the stable ones, so can't be compared"
        return text

    def _figures(self) -> tuple[Figure, ...]:
        tested = [self._figure(test) for test in self.tests]
        waiting = Figure("requests waiting", "", *self.waiting)
        return (*tested, waiting)

    def _figure(self, test: MeasureTest) -> Figure:
        measure = test.measure
        return Figure(
            measure.name,
            measure.unit,
            measure.value(self.compared(test)),
            measure.value(self.canary),
            measure.value_limit(self.compared(test)),
            round(test.past.canary.total),
        )


def shown(value: float | None, unit: str) -> str:
    """A figure for people."""
    if value is None:
        return "nothing"
    if unit == "s":
        return f"{value:.2f} s" if value >= 1 else f"{1000 * value:.0f} ms"
    return f"{value:.1f}{unit}"
