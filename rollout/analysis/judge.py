"""The judge of the users' traffic."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from rollout.analysis.comparison import Comparison
from rollout.analysis.counters import Counters, Odometer
from rollout.analysis.limits import Limits
from rollout.analysis.sources import Source, SourceUnavailable
from rollout.verdict import Decision, Revision, Verdict

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Step:
    """One step: its revisions and traffic, where the pods' counters stood, and what came since."""

    key: tuple[str, str, int]
    comparison: Comparison
    stable: Odometer = field(default_factory=Odometer)
    canary: Odometer = field(default_factory=Odometer)


class TrafficJudge:
    """Compares the two revisions' requests since the step began, and says so as soon as there is evidence.

    Every step begins anew. A resumed rollout counts from its resumption. At 100% the stable revision gets no
    requests, so the canary is held to its figures of the step before; where those were not seen, only
    absolute limits are tested.

    Args:
        source: where the counters come from.
        limits: what the canary is held to.
    """

    def __init__(self, source: Source, limits: Limits) -> None:
        self._source = source
        self._limits = limits
        self._step: _Step | None = None

    def judge(self, stable: Revision, canary: Revision, elapsed_s: float) -> Verdict:
        """See `Judge`; the counters of a step's first call are its start, so `elapsed_s` isn't used."""
        if canary.traffic_percent == 0:
            return Verdict(Decision.PROCEED)
        step = self._current(stable, canary)
        whole = canary.traffic_percent == 100
        try:
            of_stable = {} if whole else self._source.read(stable)
            of_canary = self._source.read(canary)
        except SourceUnavailable as error:
            return Verdict(Decision.WAIT, (str(error),), step.comparison.verdict().figures)
        step.comparison.add(step.stable.advance(of_stable), step.canary.advance(of_canary))
        return step.comparison.verdict()

    def _current(self, stable: Revision, canary: Revision) -> _Step:
        key = stable.name, canary.name, canary.traffic_percent
        before = self._step
        if before is None or before.key != key:
            reference = None
            if canary.traffic_percent == 100:
                seen = before is not None and before.key[:2] == key[:2]
                reference = before.comparison.stable if before is not None and seen else Counters()
            self._step = before = _Step(key, Comparison(self._limits, reference))
        return before
