"""Canaries in Knative mode: `predictor.canaryTrafficPercent` between the last two revisions.

From KServe 0.21 (reconcilers/knative/ksvc_reconciler.go, v1beta1/inference_service_status.go): the newest
revision gets the percentage, the one that last had 100% the rest. With 100 the newest becomes that one.
"""

from __future__ import annotations

from typing import Any

from rollout.errors import UnsuitableService
from rollout.mechanism import Observed, load_failure, served_instead, with_model
from rollout.record import Phase, Record
from rollout.service import Service, Spec
from rollout.verdict import Revision

_PERCENT = "canaryTrafficPercent"


class Knative:
    """Splits between two revisions of one Knative Service."""

    def check(self, service: Service) -> None:
        """One revision has to have all traffic."""
        status, percent = service.predictor_status, service.predictor.get(_PERCENT)
        if service.spec.get("canary"):
            raise UnsuitableService(f"{service.name} has spec.canary, which KServe refuses in Knative mode")
        if percent not in (None, 100):
            raise UnsuitableService(
                f"{service.name} has {_PERCENT}: {percent} already; remove it or set it to 100 first"
            )
        rolled_out = status.get("latestRolledoutRevision")
        if not service.condition("Ready") or not rolled_out:
            raise UnsuitableService(
                f"{service.name} is not ready; a rollout starts from a service that works"
            )
        if rolled_out != status.get("latestReadyRevision"):
            raise UnsuitableService(
                f"{service.name} is changing from {rolled_out} to {status.get('latestReadyRevision')}; wait"
            )

    def stable_revision(self, service: Service) -> str:
        """The revision that has all traffic."""
        return str(service.predictor_status["latestRolledoutRevision"])

    def canary(self, service: Service, model: str, number: int) -> Spec:
        """The stable predictor with another model; promoted, it has all traffic."""
        predictor = with_model(service.predictor, model)
        return {key: value for key, value in predictor.items() if key != _PERCENT}

    def spec(self, service: Service, record: Record) -> Spec:
        """The predictor of the phase.

        A rollback takes the traffic away first and changes nothing else: at 100% KServe has taken the canary
        for the stable revision, and only without a newer one it finds back to the revision before.
        """
        predictor = {
            Phase.PROGRESSING: {**record.canary, _PERCENT: record.percent},
            Phase.PROMOTING: record.canary,
            Phase.PROMOTED: record.canary,
            Phase.WITHDRAWING: {**service.predictor, _PERCENT: 0},
            Phase.RESTORING: {**record.stable, _PERCENT: 0},
            Phase.FINISHING: record.stable,
            Phase.ROLLED_BACK: record.stable,
            Phase.LEFT: service.predictor,
        }[record.phase]
        return {**service.spec, "predictor": predictor}

    def back(self, phase: Phase) -> Phase:
        """With the traffic back, the old spec becomes a new revision, which gets all traffic once ready."""
        following = {Phase.WITHDRAWING: Phase.RESTORING, Phase.RESTORING: Phase.FINISHING}
        return following.get(phase, Phase.ROLLED_BACK)

    def observe(self, service: Service, record: Record) -> Observed:
        """From the traffic of the Knative Service, as KServe passes it on."""
        status = service.predictor_status
        created = str(status.get("latestCreatedRevision") or "")
        ready = str(status.get("latestReadyRevision") or "")
        shares = _shares(status)
        if record.phase is Phase.RESTORING:
            # Where KServe never saw the canary's spec, the old revision is the newest and stays so.
            settled = created == ready and created not in ("", record.canary_revision)
            return Observed(0, settled, settled, _failure(service), record.canary_revision)
        if record.phase is Phase.FINISHING:
            settled = created == ready and shares.get(created) == 100
            return Observed(0, settled, settled, _failure(service), record.canary_revision)
        canary = record.canary_revision or (created if created != record.stable_revision else "")
        if record.phase is Phase.WITHDRAWING:
            # Where somebody's edit has made one more revision, the traffic never finds back by itself: on to
            # the old spec, as a newer revision than that.
            newest = created or canary
            edited = newest == ready and newest not in (canary, record.stable_revision)
            settled = edited or shares.get(record.stable_revision) == 100
            share = 100 - shares.get(record.stable_revision, 0)
            return Observed(share, False, settled, "", newest if edited else canary)
        is_ready = bool(canary) and canary == ready
        percent = shares.get(canary, 0) if canary else None
        settled = is_ready and percent == record.percent and sum(shares.values()) == 100
        if record.phase is Phase.PROMOTING:
            settled = settled and status.get("latestRolledoutRevision") == canary
        failure = _failure(service) if canary and not is_ready else ""
        return Observed(percent, is_ready, settled, failure, canary)

    def took_over(self, service: Service, record: Record) -> bool:
        """Never: the revision before is kept."""
        return False

    def contradiction(self, service: Service, record: Record) -> str:
        """Another model, or a share that is left over."""
        if record.phase is Phase.LEFT:
            return ""
        left = service.predictor.get(_PERCENT)
        if left not in (None, 100) and left != record.stable.get(_PERCENT):
            return f"its {_PERCENT} is {left}"
        return served_instead(service, record)

    def deployments(self, service: Service, record: Record) -> tuple[str, ...]:
        """None: Knative sizes each revision by its own requests."""
        return ()

    def refusal(self, record: Record) -> str:
        """Any share goes."""
        return ""

    def revisions(self, service: Service, record: Record) -> tuple[Revision, Revision]:
        """Each with its revision's label, and the address of its tag where it has one."""
        return (
            _revision(service, record.stable_revision, 100 - record.percent),
            _revision(service, record.canary_revision, record.percent),
        )


def _failure(service: Service) -> str:
    return load_failure(service.status.get("modelStatus"))


def _shares(status: dict[str, Any]) -> dict[str, int]:
    shares: dict[str, int] = {}
    for target in status.get("traffic") or []:
        name = target.get("revisionName", "")
        shares[name] = shares.get(name, 0) + int(target.get("percent") or 0)
    return shares


def _revision(service: Service, name: str, percent: int) -> Revision:
    targets = service.predictor_status.get("traffic") or []
    urls = [found["url"] for found in targets if found.get("revisionName") == name and found.get("url")]
    selector = f"serving.knative.dev/revision={name}"
    return Revision(
        name, service.name, service.namespace, percent, selector, service.name, next(iter(urls), None)
    )
