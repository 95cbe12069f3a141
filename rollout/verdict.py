"""What a judge says about a canary, and what it is told about the two revisions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class Decision(StrEnum):
    """What to do with a canary."""

    PROCEED = "proceed"
    WAIT = "wait"
    ROLL_BACK = "roll back"


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured figure of both revisions; None where there is none yet.

    Attributes:
        name: what was measured, such as `p95 time to first token`.
        unit: `s`, `%`, or empty for a plain number.
        limit: what the canary's figure is held to.
        samples: how many observations the canary's figure rests on.
    """

    name: str
    unit: str = ""
    stable: float | None = None
    canary: float | None = None
    limit: float | None = None
    samples: int | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """A decision with its grounds.

    Attributes:
        reasons: why, one sentence each; never empty for ROLL_BACK and WAIT.
        figures: what it rests on, for the live display and the record.
        reports: paths or addresses of fuller reports.
    """

    decision: Decision
    reasons: tuple[str, ...] = ()
    figures: tuple[Figure, ...] = ()
    reports: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Revision:
    """One of the two versions of a service, and how its figures are found.

    Attributes:
        name: the Knative revision, or in Standard mode the predictor's Deployment.
        service: the InferenceService.
        namespace: of the service and its pods.
        traffic_percent: its share of the users' requests at this step, 0 to 100.
        pod_selector: a label selector that matches this revision's pods and no others.
        model: the served model's name, as requests give it.
        url: base URL that reaches this revision alone, without a path; None where the cluster tells none,
            and then its pods are reached through the API server's proxy.
    """

    name: str
    service: str
    namespace: str
    traffic_percent: int
    pod_selector: str
    model: str
    url: str | None = None


class Judge(Protocol):
    """Looks at a canary.

    A rollout asks it every few seconds while a step lasts, so what is expensive has to be kept between
    calls. The first step is 0%: the canary is ready and gets no traffic. A judge of the users' traffic says
    PROCEED there, a judge that sends its own requests can already decide. At 100% the stable revision gets
    none.
    """

    def judge(self, stable: Revision, canary: Revision, elapsed_s: float) -> Verdict:
        """What to do with `canary`, `elapsed_s` seconds after the step began and both were ready.

        A source that doesn't answer is a reason to WAIT.

        Raises:
            RolloutError: the judge is set up wrongly; the rollout pauses with the message.
        """


def combine(verdicts: Iterable[Verdict]) -> Verdict:
    """One verdict of several: any ROLL_BACK wins, and all have to say PROCEED. Without any, PROCEED.

    The reasons kept are those of the decision taken; figures and reports are all kept.
    """
    given = list(verdicts)
    decisions = {verdict.decision for verdict in given}
    order = (Decision.ROLL_BACK, Decision.WAIT, Decision.PROCEED)
    decision = next((one for one in order if one in decisions), Decision.PROCEED)
    return Verdict(
        decision,
        tuple(reason for verdict in given if verdict.decision is decision for reason in verdict.reasons),
        tuple(figure for verdict in given for figure in verdict.figures),
        tuple(report for verdict in given for report in verdict.reports),
    )
