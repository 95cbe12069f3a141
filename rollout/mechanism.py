"""What the two canary mechanisms of KServe have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from rollout.errors import UnsuitableService
from rollout.record import Mode, Phase, Record
from rollout.service import Service, Spec
from rollout.verdict import Revision

# RawDeployment and Serverless are the names before KServe 0.17.
_MODES = {
    "Standard": Mode.STANDARD,
    "RawDeployment": Mode.STANDARD,
    "Knative": Mode.KNATIVE,
    "Serverless": Mode.KNATIVE,
}


@dataclass(frozen=True, slots=True)
class Observed:
    """What KServe reports of a rollout.

    Attributes:
        percent: the canary's share of the traffic; None where KServe reports none.
        ready: whether the canary is ready.
        settled: whether KServe has done all that the present phase asks for.
        failure: why the canary will never be ready; empty as long as it may.
        canary_revision: name of the canary's revision or Deployment; empty until it is known.
    """

    percent: int | None
    ready: bool
    settled: bool
    failure: str = ""
    canary_revision: str = ""


class Mechanism(Protocol):
    """One way to split traffic; stateless, so everything it needs is in the record and the service."""

    def check(self, service: Service) -> None:
        """See that a rollout can start.

        Raises:
            UnsuitableService: it can't; the message says why.
        """

    def stable_revision(self, service: Service) -> str:
        """Name of what serves now."""

    def canary(self, service: Service, model: str, number: int) -> Spec:
        """The spec of the predictor that is rolled out."""

    def spec(self, service: Service, record: Record) -> Spec:
        """The service's spec in the record's phase; what isn't the rollout's is left as it is."""

    def back(self, phase: Phase) -> Phase:
        """What follows on a settled phase of a rollback."""

    def observe(self, service: Service, record: Record) -> Observed:
        """What KServe reports."""

    def took_over(self, service: Service, record: Record) -> bool:
        """Whether the canary is the stable predictor by now, so that taking it back would leave nothing."""

    def contradiction(self, service: Service, record: Record) -> str:
        """How the spec contradicts the end that the record tells of; empty where it doesn't."""

    def deployments(self, service: Service, record: Record) -> tuple[str, ...]:
        """The stable Deployment and the canary's, where it is the rollout that sizes the canary."""

    def refusal(self, record: Record) -> str:
        """Why the canary can't have the record's share; empty if it can."""

    def revisions(self, service: Service, record: Record) -> tuple[Revision, Revision]:
        """The stable one and the canary, as judges need them."""


def mode_of(service: Service) -> Mode:
    """The service's deployment mode.

    Raises:
        UnsuitableService: KServe hasn't reconciled it yet, or it is of a mode without canaries.
    """
    reported = service.status.get("deploymentMode")
    if reported in _MODES:
        return _MODES[reported]
    raise UnsuitableService(
        f"status.deploymentMode of {service.name} is {reported!r}; rollouts know Standard and Knative. "
        "If the service is new, wait until it is ready"
    )


def with_model(predictor: Spec, model: str) -> Spec:
    """A copy of a predictor with another model.

    Raises:
        UnsuitableService: its model isn't given by `model.storageUri`.
    """
    found: dict[str, Any] = predictor.get("model") or {}
    if "storageUri" not in found:
        raise UnsuitableService("the predictor has no model.storageUri, which is what a rollout changes")
    return {**predictor, "model": {**found, "storageUri": model}}


def served_instead(service: Service, record: Record) -> str:
    """Which model the spec has instead of the one that the record's end tells of; empty if it is that."""
    expected = record.canary if record.phase is Phase.PROMOTED else record.stable
    found, wanted = (_model_of(predictor) for predictor in (service.predictor, expected))
    return "" if found == wanted else f"the service's predictor has the model {found}, not {wanted}"


def _model_of(predictor: Spec) -> str:
    return str((predictor.get("model") or {}).get("storageUri", "unknown"))


def load_failure(status: dict[str, Any] | None) -> str:
    """Why a model can't be loaded, from KServe's modelStatus; empty if it can or may."""
    status = status or {}
    if status.get("transitionStatus") not in ("BlockedByFailedLoad", "InvalidSpec"):
        return ""
    info = status.get("lastFailureInfo") or {}
    return ": ".join(filter(None, (info.get("reason"), info.get("message")))) or status["transitionStatus"]
