"""What a rollout leaves on the InferenceService, so that anybody can see it and go on with it.

The record lies in `status.annotations`. In `metadata.annotations` every change of it would restart pods:
KServe copies those annotations into the pods' templates (`Predictor.Reconcile` in
pkg/controller/v1beta1/inferenceservice/components/predictor.go, kserve/kserve issue 3710), which makes a new
revision in Knative mode and restarts the stable pods too in Standard mode. Status annotations stay where they
are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from rollout.errors import RolloutError
from rollout.plan import Plan

RECORD = "kserve-llamacpp/rollout"
HISTORY = "kserve-llamacpp/rollout-history"
# On an Event: what it tells.
ENTRY = "kserve-llamacpp/rollout-entry"
KEPT_ENTRIES = 100
_VERSION = 1


class Mode(StrEnum):
    """KServe's deployment modes, each with a canary mechanism of its own."""

    KNATIVE = "Knative"
    STANDARD = "Standard"


class Phase(StrEnum):
    """Where a rollout is. The first five are passed through, the others are ends, which change no spec."""

    PROGRESSING = "progressing"
    PROMOTING = "promoting"
    WITHDRAWING = "withdrawing"
    RESTORING = "restoring"
    FINISHING = "finishing"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled back"
    LEFT = "left as it was"

    @property
    def active(self) -> bool:
        """Whether something remains to be done."""
        return self not in (Phase.PROMOTED, Phase.ROLLED_BACK, Phase.LEFT)

    @property
    def going_back(self) -> bool:
        """Whether a rollback is under way."""
        return self in (Phase.WITHDRAWING, Phase.RESTORING, Phase.FINISHING)


@dataclass(frozen=True, slots=True)
class Record:
    """One rollout.

    Attributes:
        number: counts the rollouts of this service from 1.
        model: the canary's model reference.
        percent: the canary's share of the traffic in this phase.
        paused: why nothing goes on by itself; empty while it does.
        stable: the stable predictor's spec as it was before.
        canary: the new predictor's spec, as it is promoted.
        stable_revision: name of the stable version's revision or Deployment.
        canary_revision: the same for the canary; empty until KServe has told it.
        before: digest of the service's spec before the last change by the rollout.
        after: digest of the spec that this change makes. Any other spec is somebody else's.
        judging: the options of the judges.
        replicas: how many served when the canary got its share, where the rollout sizes the canary; else 0.
    """

    number: int
    mode: Mode
    model: str
    phase: Phase
    percent: int
    paused: str
    plan: Plan
    stable: dict[str, Any]
    canary: dict[str, Any]
    stable_revision: str
    canary_revision: str
    before: str
    after: str
    started_by: str
    started_at: str
    judging: dict[str, Any] = field(default_factory=dict)
    replicas: int = 0

    def to_json(self) -> str:
        """The annotation's text."""
        return json.dumps({"version": _VERSION, **asdict(self)}, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that happened in a rollout, and who did it.

    Attributes:
        at: time in UTC, ISO 8601.
        number: of the rollout.
        action: such as `step`; empty reasons mean that it went as planned.
        percent: the canary's share of the traffic afterwards.
    """

    at: str
    by: str
    number: int
    model: str
    action: str
    percent: int
    reasons: tuple[str, ...] = ()

    @classmethod
    def from_object(cls, found: Mapping[str, Any]) -> Entry:
        """Of an annotation's JSON.

        Raises:
            ValueError, KeyError, TypeError: it is none.
        """
        return cls(**{**found, "reasons": tuple(found["reasons"])})


def read_record(annotations: Mapping[str, str]) -> Record | None:
    """The record among a service's status annotations.

    Raises:
        RolloutError: it was not written by this version.
    """
    text = annotations.get(RECORD)
    if not text:
        return None
    try:
        found = json.loads(text)
        if found.pop("version") != _VERSION:
            raise RolloutError(
                f"the rollout's record {RECORD} was written by another version of kserve-llamacpp"
            )
        plan = found["plan"] | {"steps": tuple(found["plan"]["steps"])}
        enums = {"mode": Mode(found["mode"]), "phase": Phase(found["phase"]), "plan": Plan(**plan)}
        return Record(**found | enums)
    except (ValueError, KeyError, TypeError) as error:
        raise RolloutError(
            f"the rollout's record {RECORD} in status.annotations can't be read ({error}); "
            "set the service right by hand and remove the annotation"
        ) from None


def read_history(annotations: Mapping[str, str]) -> tuple[Entry, ...]:
    """What happened, oldest first; entries that can't be read are left out."""
    try:
        return tuple(map(Entry.from_object, json.loads(annotations.get(HISTORY, "[]"))))
    except (ValueError, KeyError, TypeError):
        return ()


def merged(entries: tuple[Entry, ...], more: Iterable[Entry]) -> tuple[Entry, ...]:
    """A history with entries from elsewhere where it lacks them, oldest first."""
    missing = [entry for entry in more if entry not in entries]
    return tuple(sorted((*missing, *entries), key=lambda entry: entry.at))


def write_history(entries: tuple[Entry, ...]) -> str:
    """The annotation's text, of the newest entries."""
    return json.dumps([asdict(entry) for entry in entries[-KEPT_ENTRIES:]], separators=(",", ":"))


def digest(spec: Mapping[str, Any]) -> str:
    """What tells two specs apart."""
    text = json.dumps(spec, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
