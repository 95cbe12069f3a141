"""The judge of the users' traffic."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from rollout.analysis.comparison import MOST_LOAD, Comparison
from rollout.analysis.counters import Counters
from rollout.analysis.limits import Limits
from rollout.analysis.measure_test import MeasureTest
from rollout.analysis.measures import measures
from rollout.analysis.odometer import Odometer, Stretch
from rollout.analysis.sources import Source, SourceUnavailable
from rollout.plan import Plan
from rollout.verdict import Decision, Revision, Verdict


@dataclass(slots=True)
class _Step:
    """One step: its revisions and traffic, where the pods' counters stood, and what came since."""

    key: tuple[str, str, int]
    stable: Odometer = field(default_factory=Odometer)
    canary: Odometer = field(default_factory=Odometer)
    comparison: Comparison | None = None
    blocks: list[Counters] = field(default_factory=list)
    share: float = 0.0
    began: float = 0.0


class TrafficJudge:
    """Compares the two revisions' requests since the step began, and says so as soon as there is evidence.

    Before the canary gets traffic, the stable revision is watched for as long as a step lasts: later that is
    the ground to compare with where the stable pods have less to do than the canary's, or nothing at all.
    Every step begins anew, but for the deaths of processes, which are counted through all of them. A resumed
    rollout counts from its resumption.

    Args:
        source: where the counters come from.
        limits: what the canary is held to.
        plan: how the rollout goes on.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        source: Source,
        limits: Limits,
        plan: Plan | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._limits = limits
        self._plan = plan or Plan()
        self._clock = clock
        self._step: _Step | None = None
        self._earlier: list[tuple[float, list[Counters]]] = []
        self._deaths: MeasureTest | None = None

    def judge(self, stable: Revision, canary: Revision, elapsed_s: float) -> Verdict:
        """See `Judge`."""
        step = self._current(stable, canary)
        percent = canary.traffic_percent
        try:
            of_stable = Stretch() if percent == 100 else self._look(step.stable, stable)
            of_canary = Stretch() if percent == 0 else self._look(step.canary, canary)
        except SourceUnavailable as error:
            figures = step.comparison.verdict().figures if step.comparison else ()
            return Verdict(Decision.WAIT, (str(error),), figures)
        if percent == 0:
            step.blocks.append(of_stable.counters)
            step.share = 100 / max(1, of_stable.pods)
            if elapsed_s < self._plan.interval_s:
                return Verdict(Decision.WAIT, ("the stable revision is watched before the first step",))
            return Verdict(Decision.PROCEED)
        step.share = (100 - percent) / max(1, of_stable.pods)
        comparison = step.comparison or self._begin(step, percent, of_canary)
        waiting = of_stable.waiting, of_canary.waiting
        comparison.add(of_stable.counters, of_canary.counters, self._clock() - step.began, waiting)
        step.blocks.append(of_stable.counters)
        verdict = comparison.verdict(is_last=self._plan.after(percent) is None)
        silent = ", ".join(of_stable.silent + of_canary.silent)
        if silent and verdict.decision is Decision.PROCEED:
            return Verdict(Decision.WAIT, (f"no metrics come from {silent}",), verdict.figures)
        return verdict

    def _look(self, odometer: Odometer, revision: Revision) -> Stretch:
        return odometer.advance(self._source.read(revision), self._clock())

    def _current(self, stable: Revision, canary: Revision) -> _Step:
        key = stable.name, canary.name, canary.traffic_percent
        before = self._step
        if before is not None and before.key == key:
            return before
        if before is not None and before.key[:2] != key[:2]:
            self._earlier, self._deaths = [], None
        elif before is not None and before.blocks:
            self._earlier.append((before.share, before.blocks))
        self._step = _Step(key, began=self._clock())
        return self._step

    def _begin(self, step: _Step, percent: int, of_canary: Stretch) -> Comparison:
        """Choose what the canary is compared with."""
        of_pods_as_busy = self._as_busy(percent / max(1, of_canary.pods), step.share, percent)
        everything = self._blocks(0.0) if percent == 100 else None
        tests = [
            MeasureTest(measure, of_pods_as_busy if measure.grows_with_load else everything)
            for measure in measures(self._limits)
            if measure.by_requests
        ]
        tests += self._counted_through(percent)
        step.comparison = Comparison(self._limits, len(self._plan.steps), tests)
        return step.comparison

    def _as_busy(self, share: float, beside: float, percent: int) -> tuple[Counters, ...] | None:
        """Earlier blocks in which the stable pods had as much to do as the canary's; None if they have now.

        Args:
            share: of the traffic, for each of the canary's pods.
            beside: the same for the stable ones.
        """
        if percent < 100 and share <= MOST_LOAD * beside:
            return None
        busiest = max((earlier for earlier, _ in self._earlier), default=0.0)
        least = min(share / MOST_LOAD, busiest)
        return self._blocks(least) if percent == 100 or least > beside else None

    def _blocks(self, least: float) -> tuple[Counters, ...]:
        """Those of the earlier steps in which each stable pod had at least so much of the traffic."""
        return tuple(block for share, blocks in self._earlier if share >= least for block in blocks)

    def _counted_through(self, percent: int) -> list[MeasureTest]:
        """The test of deaths, which goes on from step to step."""
        for measure in measures(self._limits):
            if not measure.by_requests:
                self._deaths = self._deaths or MeasureTest(measure)
        if self._deaths is None:
            return []
        if percent == 100:
            self._deaths.held_to(self._blocks(0.0))
        return [self._deaths]
