"""Canaries in Standard mode: `spec.canary[]`, weights on a Gateway API HTTPRoute.

Names and rules from KServe 0.21 (kserve/kserve pull requests 5672, 5912 and 5984): a predictor called NAME
has the Deployment and Service `SERVICE-NAME-predictor`, a canary that isn't ready gets no traffic, and a
stable predictor that takes the canary's name takes over its running pods.
"""

from __future__ import annotations

import math

from rollout.errors import UnsuitableService
from rollout.mechanism import Observed, load_failure, served_instead, with_model
from rollout.record import Phase, Record
from rollout.service import Service, Spec
from rollout.verdict import Revision

_NOT_IN_A_CANARY = (
    "maxReplicas",
    "scaleTarget",
    "scaleMetric",
    "scaleMetricType",
    "autoScaling",
    "workerSpec",
)
_CONTAINER = "kserve-container"
_LONGEST_NAME = 63


class Standard:
    """Splits between two Deployments of one InferenceService."""

    def check(self, service: Service) -> None:
        """No canary may be there, nor a weight that this mode ignores."""
        if service.spec.get("canary"):
            raise UnsuitableService(
                f"{service.name} has canaries in spec.canary that no rollout made; promote or remove them"
            )
        if service.predictor.get("workerSpec"):
            raise UnsuitableService(
                "predictors over several nodes (workerSpec) can't have a canary in KServe"
            )
        if service.predictor.get("minReplicas") == 0:
            raise UnsuitableService(
                "with minReplicas 0 KServe lets a canary have no replicas either, so it never gets ready"
            )
        if not service.condition("Ready"):
            raise UnsuitableService(
                f"{service.name} is not ready; a rollout starts from a service that works"
            )

    def stable_revision(self, service: Service) -> str:
        """Its Deployment."""
        return _deployment(service.name, service.predictor.get("name"))

    def canary(self, service: Service, model: str, number: int) -> Spec:
        """The stable predictor with another model, under a name of its own."""
        name = f"r{number}"
        if name == service.predictor.get("name"):
            name += "b"
        if len(_deployment(service.name, name)) + len("isvc.") > _LONGEST_NAME:
            raise UnsuitableService(
                f"the name {service.name} is too long for a canary: its pods' label would pass 63 letters"
            )
        return {**with_model(service.predictor, model), "name": name}

    def spec(self, service: Service, record: Record) -> Spec:
        """Only our entry of `spec.canary` is touched, and the predictor when it is promoted."""
        others = [c for c in service.spec.get("canary") or [] if c["predictor"].get("name") != _name(record)]
        canaries = [*others, _entry(record)] if record.phase is Phase.PROGRESSING else others
        promoted = record.phase in (Phase.PROMOTING, Phase.PROMOTED)
        predictor = record.canary if promoted else service.predictor
        rest = {key: value for key, value in service.spec.items() if key != "canary"}
        return {**rest, "predictor": predictor} | ({"canary": canaries} if canaries else {})

    def back(self, phase: Phase) -> Phase:
        """Without the canary's entry the service is what it was."""
        return Phase.ROLLED_BACK

    def observe(self, service: Service, record: Record) -> Observed:
        """From `status.canaryStatuses`. `observedGeneration` there counts the Deployment's generations."""
        statuses = {found["name"]: found for found in service.status.get("canaryStatuses") or []}
        ours = statuses.get(_name(record))
        revision = _deployment(service.name, _name(record))
        if record.phase is Phase.PROGRESSING:
            if ours is None:
                return Observed(None, False, False, "", revision)
            percent, ready = int(ours["trafficPercent"]), bool(ours["ready"])
            settled = ready and percent == record.percent
            failure = load_failure(ours.get("modelStatus"))
            return Observed(percent if ready else 0, ready, settled, failure, revision)
        settled = ours is None and service.condition("Ready")
        share = 100 if record.phase in (Phase.PROMOTING, Phase.PROMOTED) else 0
        return Observed(share if settled else None, settled, settled, "", revision)

    def took_over(self, service: Service, record: Record) -> bool:
        """Whether the predictor has the canary's name, which hands its pods over; edited or not."""
        return service.predictor.get("name") == _name(record)

    def contradiction(self, service: Service, record: Record) -> str:
        """Another model, or a canary that is left over."""
        if record.phase is Phase.LEFT:
            return ""
        canaries = [found["predictor"].get("name") for found in service.spec.get("canary") or []]
        if _name(record) in canaries:
            return f"{_name(record)} is still in its spec.canary"
        return served_instead(service, record)

    def deployments(self, service: Service, record: Record) -> tuple[str, ...]:
        """Both: KServe has no autoscaler for a canary."""
        return record.stable_revision, _deployment(service.name, _name(record))

    def refusal(self, record: Record) -> str:
        """KServe allows a canary no more replicas than the stable predictor's `minReplicas`."""
        most = max(1, int(record.stable.get("minReplicas", 1)))
        needed = _replicas(record)
        if needed <= most:
            return ""
        return (
            f"at {record.percent}% the canary needs {needed} of the {record.replicas} replicas that serve "
            f"now, and KServe allows it no more than the predictor's minReplicas, {most}. End the rollout, "
            f"set minReplicas to {record.replicas} or more and start again, or resume at less traffic"
        )

    def revisions(self, service: Service, record: Record) -> tuple[Revision, Revision]:
        """Each with its pods' label; without a URL, since Services are reached inside the cluster only."""
        return (
            _revision(service, record.stable_revision, 100 - record.percent),
            _revision(service, _deployment(service.name, _name(record)), record.percent),
        )


def _name(record: Record) -> str:
    return str(record.canary["name"])


def _deployment(service: str, predictor: str | None) -> str:
    return f"{service}-{predictor}-predictor" if predictor else f"{service}-predictor"


def _entry(record: Record) -> Spec:
    """The canary's place in `spec.canary`. KServe would derive 0 replicas from 0%, and it has to start."""
    predictor = {key: value for key, value in record.canary.items() if key not in _NOT_IN_A_CANARY}
    # The CRD demands the container's name here, and the webhook forbids it in the stable predictor.
    predictor["model"] = {**predictor["model"], "name": _CONTAINER}
    predictor["minReplicas"] = _replicas(record)
    return {"predictor": predictor, "trafficPercent": record.percent}


def _replicas(record: Record) -> int:
    """The canary's, by its share of what serves; at least of what always serves."""
    serving = max(record.replicas, int(record.stable.get("minReplicas", 1)))
    return max(1, math.ceil(serving * record.percent / 100))


def _revision(service: Service, deployment: str, percent: int) -> Revision:
    selector = f"app=isvc.{deployment}"
    return Revision(deployment, service.name, service.namespace, percent, selector, service.name)
