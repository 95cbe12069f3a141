"""One step's comparison of the two revisions, fed with what was counted since the last look."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from rollout.analysis.counters import Counters
from rollout.analysis.limits import Limits
from rollout.analysis.measures import Measure, measures
from rollout.analysis.sequential import Claim, Pair, RateLimit, log_evidence
from rollout.verdict import Decision, Figure, Verdict


@dataclass(slots=True)
class MeasureTest:
    """The sequential test of one measure.

    Attributes:
        against_kept: most evidence so far, as a natural logarithm, that the limit is not kept.
        against_far: the same that the canary is not far beyond it.
        past: bad requests and all, judged by the limits that held when they came.
    """

    measure: Measure
    against_kept: float = 0.0
    against_far: float = 0.0
    past: Pair = field(default_factory=Pair)
    _kept: float = 0.0
    _far: float = 0.0
    _seen: tuple[Counters, Counters] = (Counters(), Counters())
    _pending: tuple[Counters, Counters] = (Counters(), Counters())

    def add(self, stable: Counters, canary: Counters, reference: Counters | None) -> None:
        """Take in what was counted since the last call.

        Args:
            stable, canary: new counts of the two revisions.
            reference: the stable revision's counts of an earlier step, where it gets no requests in this one.
        """
        self._pending = self._pending[0] + stable, self._pending[1] + canary
        threshold = self.measure.threshold(self._seen[0] if reference is None else reference)
        if threshold is None:
            self._close_block()
            return
        block = self._pair(self._pending, threshold)
        # A block has both revisions' requests in it, else a relative limit gets no evidence from it.
        if not block.canary.total or (reference is None and not block.stable.total):
            return
        past = self._pair(self._seen, threshold)
        keep, far = self.measure.rate_limit(), self.measure.far_limit()
        if reference is not None:
            rate = self.measure.counts(reference, threshold).rate or 0.0
            keep, far = (RateLimit(0.0, limit.at(rate)) for limit in (keep, far))
            past, block = Pair(canary=past.canary), Pair(canary=block.canary)
        self._kept += log_evidence(keep, Claim.KEPT, past, block)
        self._far += log_evidence(far, Claim.BROKEN, past, block)
        self.against_kept = max(self.against_kept, self._kept)
        self.against_far = max(self.against_far, self._far)
        self.past = self.past + block
        self._close_block()

    def _close_block(self) -> None:
        self._seen = self._seen[0] + self._pending[0], self._seen[1] + self._pending[1]
        self._pending = Counters(), Counters()

    def _pair(self, counters: tuple[Counters, Counters], threshold: float) -> Pair:
        return Pair(*(self.measure.counts(one, threshold) for one in counters))


@dataclass(slots=True)
class Comparison:
    """All measures of one step, and what follows from them.

    Attributes:
        limits: what the canary is held to.
        reference: the stable revision's counts of an earlier step, where it gets no requests in this one. A
            figure whose limit can't be told from it is not tested.
        stable, canary: everything counted in this step.
    """

    limits: Limits
    reference: Counters | None = None
    stable: Counters = field(default_factory=Counters)
    canary: Counters = field(default_factory=Counters)
    tests: list[MeasureTest] = field(init=False)

    def __post_init__(self) -> None:
        tested = measures(self.limits)
        if self.reference is not None:
            tested = [measure for measure in tested if measure.threshold(self.reference) is not None]
        self.tests = [MeasureTest(measure) for measure in tested]

    def add(self, stable: Counters, canary: Counters) -> None:
        """Take in what was counted since the last call."""
        self.stable = replace(self.stable + stable, waiting=stable.waiting)
        self.canary = replace(self.canary + canary, waiting=canary.waiting)
        for test in self.tests:
            test.add(stable, canary, self.reference)

    def verdict(self) -> Verdict:
        """What the evidence so far says."""
        worse = [self._worse(test) for test in self.tests if self._is_worse(test)]
        if worse:
            return Verdict(Decision.ROLL_BACK, tuple(worse), self._figures())
        open_ones = [self._open(test) for test in self.tests if not self._is_settled(test)]
        if open_ones:
            return Verdict(Decision.WAIT, tuple(open_ones), self._figures())
        return Verdict(Decision.PROCEED, figures=self._figures())

    def _is_worse(self, test: MeasureTest) -> bool:
        enough = test.past.canary.total >= self.limits.least_requests
        return enough and test.against_kept >= self._needed

    def _is_settled(self, test: MeasureTest) -> bool:
        total = test.past.canary.total
        if total < self.limits.least_requests:
            return False
        return test.against_far >= -math.log(self.limits.proceed_risk) or total >= self.limits.enough_requests

    @property
    def _needed(self) -> float:
        # Every figure may err, so each gets its part of the risk (Bonferroni).
        return math.log(len(self.tests) / self.limits.roll_back_risk)

    def _worse(self, test: MeasureTest) -> str:
        measure, past = test.measure, test.past
        figure = self._figure(test)
        canary, stable = shown(figure.canary, figure.unit), shown(figure.stable, figure.unit)
        odds = math.exp(min(test.against_kept, 50))
        return (
            f"{measure.name}: {canary}, and {stable} on the stable revision; the limit is "
            f"{measure.limit.text}. Bad by that were {past.canary.bad:.0f} of the canary's "
            f"{past.canary.total:.0f} requests and {past.stable.bad:.0f} of the stable's "
            f"{past.stable.total:.0f}: evidence of {odds:,.0f} to 1 that the limit is broken"
        )

    def _open(self, test: MeasureTest) -> str:
        total = test.past.canary.total
        return f"{test.measure.name}: too early to tell after {total:.0f} of the canary's requests"

    def _figures(self) -> tuple[Figure, ...]:
        tested = [self._figure(test) for test in self.tests]
        waiting = Figure("requests waiting", "", self.stable.waiting, self.canary.waiting)
        return (*tested, waiting)

    def _figure(self, test: MeasureTest) -> Figure:
        measure = test.measure
        stable = self.stable if self.reference is None else self.reference
        return Figure(
            measure.name,
            measure.unit,
            measure.value(stable),
            measure.value(self.canary),
            measure.value_limit(stable),
            round(test.past.canary.total),
        )


def shown(value: float | None, unit: str) -> str:
    """A figure for people."""
    if value is None:
        return "nothing"
    if unit == "s":
        return f"{value:.2f} s" if value >= 1 else f"{1000 * value:.0f} ms"
    return f"{value:.1f}{unit}"
