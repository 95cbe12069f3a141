"""What the commands of a rollout return."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from rollout.mechanism import Observed
from rollout.record import Entry, Record
from rollout.verdict import Verdict


class Outcome(StrEnum):
    """How a command left the rollout."""

    PROMOTED = "promoted"
    ROLLED_BACK = "rolled back"
    PAUSED = "paused"
    LEFT = "left as it was"


@dataclass(frozen=True, slots=True)
class Result:
    """How a rollout ended, or why it stands.

    Attributes:
        percent: the canary's share of the traffic.
        reasons: why; empty for a promotion that went as planned.
        verdict: the last one, if judges were asked.
    """

    outcome: Outcome
    model: str
    percent: int
    reasons: tuple[str, ...] = ()
    verdict: Verdict | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A rollout at one moment, for a display.

    Attributes:
        record: None where the service never had a rollout.
        observed: what KServe reports; None without a rollout under way.
        foreign: who else has changed the service, and what can be done; empty if nobody has.
        verdict: of the present step, if one was given.
        elapsed_s: seconds since the canary got this step's traffic; None before.
        last: the newest entry of the history.
        unreachable: why nothing newer is known; empty while the cluster answers.
    """

    namespace: str
    name: str
    record: Record | None
    observed: Observed | None = None
    foreign: str = ""
    verdict: Verdict | None = None
    elapsed_s: float | None = None
    last: Entry | None = None
    unreachable: str = ""


@dataclass(frozen=True, slots=True)
class Preview:
    """What `start` would do.

    Attributes:
        patch: the merge patch on the InferenceService, resourceVersion included, that begins the rollout.
        diff: the predictor's change as a unified diff of YAML.
        missing: rights that the user lacks.
    """

    patch: dict[str, Any]
    diff: str
    missing: tuple[str, ...]
