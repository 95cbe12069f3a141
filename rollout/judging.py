"""Which judges a rollout has: options in, judges out."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

from rollout.errors import RolloutError
from rollout.plan import Plan
from rollout.verdict import Judge, Revision

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

    from rollout.analysis.limits import Limits
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
        deaths: of processes an hour.
        golden: path of the golden set; None for no quality gate.
        golden_digest: of what the set held at the start, since the path is one of the machine that started.
        logprob_drop: see `rollout.quality.gate.QualityLimits`, as the next one.
        agreement: least share of same answers, 0 to 1.
        reports: folder for the quality gate's reports.
    """

    metrics: str = PODS
    error_rate: str = "stable + 1%"
    first_token: str = "1.2 * stable + 50ms"  # noqa: S105
    inter_token: str = "1.2 * stable + 10ms"  # noqa: S105
    queue: str = "1.2 * stable + 200ms"
    deaths: str = "stable + 0.2/h"
    golden: str | None = None
    golden_digest: str = ""
    logprob_drop: float = 0.5
    agreement: float = 0.0
    reports: str = "rollout-reports"

    def signed(self) -> Judging:
        """With the digest of the golden set.

        Raises:
            RolloutError: it can't be read.
        """
        return self if self.golden is None else replace(self, golden_digest=_digest(self.golden))

    def here(self, golden: str | None, reports: str | None) -> Judging:
        """The same with the paths of this machine; None keeps one.

        Raises:
            RolloutError: a golden set is given and there was none, or none is there, or it is another one.
        """
        if self.golden is None and golden is not None:
            raise RolloutError("the rollout was started without a golden set, so none is compared")
        found = replace(self, golden=golden or self.golden, reports=reports or self.reports)
        if found.golden is None or not found.golden_digest:
            return found
        if not Path(found.golden).is_file():
            raise RolloutError(
                f"the golden set {found.golden} isn't on this machine; say where it is with --golden FILE"
            )
        if _digest(found.golden) != found.golden_digest:
            raise RolloutError(
                f"{found.golden} isn't the golden set that the rollout was started with; "
                "give that one with --golden FILE"
            )
        return found

    def notices(self, plan: Plan) -> tuple[str, ...]:
        """What won't be tested, to be said before the start.

        Raises:
            RolloutError: an option can't be used.
        """
        limits = self._limits()
        given = limits.given()
        tested = self.metrics != NONE and bool(given)
        if not tested and self.golden is None:
            return ("nothing is tested: no figures and no golden set; only time and readiness decide",)
        if tested and plan.steps[0] == 100 and all(limit.ratio for limit in given):
            relative = "all limits are relative to the stable revision, which gets no requests at 100%"
            return (f"no figure is tested while requests come: {relative}; begin with a smaller step",)
        return ()

    def judges(self, api: ApiClient, plan: Plan) -> list[Judge]:
        """The judges; `api` reaches the cluster with the user's rights.

        Raises:
            RolloutError: an option can't be used, such as a file that isn't there.
        """
        judges: list[Judge] = []
        limits = self._limits()
        if self.metrics != NONE:
            from rollout.analysis.judge import TrafficJudge

            judges.append(TrafficJudge(self._source(api), limits, plan))
        if self.golden is not None:
            judges.append(self._quality_judge(api, Path(self.golden)))
        return judges

    def _limits(self) -> Limits:
        from rollout.analysis.limits import Kind, Limits, parse_limit

        return Limits(
            error_rate=parse_limit(self.error_rate, Kind.SHARE),
            first_token=parse_limit(self.first_token, Kind.TIME),
            inter_token=parse_limit(self.inter_token, Kind.TIME),
            queue=parse_limit(self.queue, Kind.TIME),
            deaths=parse_limit(self.deaths, Kind.FREQUENCY),
        )

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
        return QualityJudge(load_golden(golden), endpoint, limits, _writable(Path(self.reports)))


def _digest(golden: str) -> str:
    try:
        return hashlib.sha256(Path(golden).read_bytes()).hexdigest()
    except OSError as error:
        raise RolloutError(f"the golden set {golden} can't be read: {error}") from error


def _writable(folder: Path) -> Path:
    """The folder, in which a file can be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise RolloutError(
            f"no report can be written to {folder} ({error.strerror}); choose a folder with --reports"
        ) from error
