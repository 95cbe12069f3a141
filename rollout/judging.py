"""Which judges a rollout has: options in, judges out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rollout.errors import RolloutError
from rollout.verdict import Judge, Revision

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

    from rollout.analysis.sources import Source
    from rollout.quality.answers import Endpoint

PODS, NONE = "pods", "none"


@dataclass(frozen=True, slots=True)
class Judging:
    """How the canary is judged, as the command line gave it.

    It is kept with the rollout's record on the InferenceService, so that a resumed rollout judges the same
    way: every field is a string, number, bool, None or a list of those, and has a default.

    Attributes:
        metrics: `pods` to scrape them, the address of a Prometheus server, or `none` for no analysis.
        error_rate, first_token, inter_token, queue: limits as `rollout.analysis.limits.parse_limit` reads.
        golden: path of the golden set; None for no quality gate.
        logprob_drop: see `rollout.quality.gate.QualityLimits`, as the next one.
        agreement: least share of same answers, 0 to 1.
        reports: folder for the quality gate's reports.
    """

    metrics: str = PODS
    error_rate: str = "stable + 1%"
    first_token: str = "1.5 * stable + 100ms"  # noqa: S105
    inter_token: str = "1.5 * stable + 20ms"  # noqa: S105
    queue: str = "1.5 * stable + 500ms"
    golden: str | None = None
    logprob_drop: float = 0.5
    agreement: float = 0.0
    reports: str = "rollout-reports"

    @property
    def asks_pods(self) -> bool:
        """Whether judges ask pods through the API server, which takes the rights `rollout.rights.PODS`."""
        return self.metrics == PODS or self.golden is not None

    def judges(self, api: ApiClient) -> list[Judge]:
        """The judges; `api` reaches the cluster with the user's rights.

        Raises:
            RolloutError: an option can't be used, such as a file that isn't there.
        """
        judges: list[Judge] = []
        if self.metrics != NONE:
            judges.append(self._traffic_judge(api))
        if self.golden is not None:
            judges.append(self._quality_judge(api, Path(self.golden)))
        return judges

    def _traffic_judge(self, api: ApiClient) -> Judge:
        from rollout.analysis.judge import TrafficJudge
        from rollout.analysis.limits import Limits, parse_limit

        limits = Limits(
            error_rate=parse_limit(self.error_rate),
            first_token=parse_limit(self.first_token),
            inter_token=parse_limit(self.inter_token),
            queue=parse_limit(self.queue),
        )
        return TrafficJudge(self._source(api), limits)

    def _source(self, api: ApiClient) -> Source:
        from rollout.analysis.sources import PodSource, PrometheusSource
        from rollout.pods import Pods

        if self.metrics == PODS:
            return PodSource(Pods(api))
        if not self.metrics.startswith(("http://", "https://")):
            raise RolloutError(
                f"metrics come from {PODS!r}, the http:// or https:// address of a Prometheus server, or "
                f"{NONE!r}; not from {self.metrics!r}"
            )
        return PrometheusSource(self.metrics)

    def _quality_judge(self, api: ApiClient, golden: Path) -> Judge:
        from rollout.pods import Pods
        from rollout.quality.answers import PodEndpoint
        from rollout.quality.gate import QualityLimits
        from rollout.quality.golden import load_golden
        from rollout.quality.judge import QualityJudge

        pods = Pods(api)

        def endpoint(revision: Revision) -> Endpoint:
            return PodEndpoint(pods, revision)

        limits = QualityLimits(logprob_drop=self.logprob_drop, agreement=self.agreement)
        return QualityJudge(load_golden(golden), endpoint, limits, Path(self.reports))
