"""The judge of answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rollout.quality.answers import EndpointOf
from rollout.quality.gate import QualityLimits, tolerated
from rollout.quality.golden import GoldenPrompt
from rollout.quality.report import Report, write_html
from rollout.quality.run import GoldenRun
from rollout.verdict import Decision, Revision, Verdict


class QualityJudge:
    """Sends the golden set to both revisions once a step, before the canary's first traffic too.

    At 100% the stable revision may be gone, so nothing is compared any more.

    Args:
        prompts: the golden set.
        endpoint_of: how a revision is reached.
        limits: how much worse the canary's answers may be.
        reports: folder for the reports; None writes none.
    """

    def __init__(
        self,
        prompts: Sequence[GoldenPrompt],
        endpoint_of: EndpointOf,
        limits: QualityLimits,
        reports: Path | None,
    ) -> None:
        self._prompts = prompts
        self._endpoint_of = endpoint_of
        self._limits = limits
        self._reports = reports
        self._key: tuple[str, str, int] | None = None
        self._run: GoldenRun | None = None
        self._verdict: Verdict | None = None

    def judge(self, stable: Revision, canary: Revision, elapsed_s: float) -> Verdict:
        """See `rollout.verdict.Judge`; it waits while the answers come in."""
        if canary.traffic_percent == 100:
            return Verdict(Decision.PROCEED)
        key = stable.name, canary.name, canary.traffic_percent
        if key != self._key:
            self._key, self._run, self._verdict = key, None, None
        if self._verdict is None:
            verdict = self._look(stable, canary)
            if verdict.decision is Decision.WAIT:
                return verdict
            self._verdict = verdict
        return self._verdict

    def _look(self, stable: Revision, canary: Revision) -> Verdict:
        """The verdict so far; it stands once it isn't to wait."""
        if self._run is None:
            endpoints = self._endpoint_of(stable), self._endpoint_of(canary)
            self._run = GoldenRun(self._prompts, *endpoints, (stable.model, canary.model))
        quality = self._run.result()
        if quality is None:
            progress = f"the golden set: {self._run.done} of {self._run.total} prompts compared"
            return Verdict(Decision.WAIT, (progress,))
        answered = quality.answered
        if answered.total - answered.stable > tolerated(0.0, answered.total):
            self._run = None  # Nothing to compare with: the next call begins again.
            example = next(one.stable.error for one in quality.compared if one.stable.error)
            return Verdict(Decision.WAIT, (f"the stable revision doesn't answer the golden set: {example}",))
        report = Report(stable, canary, quality, self._limits)
        paths = () if self._reports is None else (str(write_html(report, self._reports)),)
        verdict = quality.verdict(self._limits)
        return Verdict(verdict.decision, verdict.reasons, verdict.figures, paths)
