"""STANDS IN for KServe's controller: sets the status of InferenceServices on the real API server.

It follows KServe 0.21 where a rollout depends on it: what makes a new revision or restarts pods (the
predictor, and the service's own annotations), which revision a weight goes to, how 100% and 0% move the
rolled-out revision, that a canary's replicas follow its percentage unless it says otherwise, and that nothing
gets traffic that isn't ready. No pods exist; a model is "loaded" some reconciliations after it appeared. A
model reference with `broken` in it fails to load, one with `never` never gets ready.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

SERVICES = "/apis/serving.kserve.io/v1beta1/inferenceservices"
MODE = "serving.kserve.io/deploymentMode"
_SCALING = (
    "name",
    "minReplicas",
    "maxReplicas",
    "scaleTarget",
    "scaleMetric",
    "autoScaling",
    "canaryTrafficPercent",
)
_OF_STATUS = ("deploymentMode", "conditions", "components", "canaryStatuses", "modelStatus")

Object = dict[str, Any]


@dataclass
class Workload:
    """A revision or a Deployment.

    Attributes:
        restarts: how often its pod template was changed after it was made.
    """

    template: str
    made: int
    restarts: int = 0


@dataclass
class World:
    """What exists for one service besides the InferenceService."""

    workloads: dict[str, Workload] = field(default_factory=dict)
    traffic: dict[str, int] = field(default_factory=dict)
    created: int = 0


class KServeStandIn:
    """Reconciles all services until it is stopped.

    Attributes:
        awake: while it isn't set, nothing is reconciled and no CPU time taken.
    """

    def __init__(self, client: httpx.Client, *, pause_s: float = 0.01, load_rounds: int = 2) -> None:
        self.worlds: dict[str, World] = {}
        self.awake = threading.Event()
        self.awake.set()
        self.stopped = False
        self.down = False
        self._client = client
        self._pause_s = pause_s
        self._load_rounds = load_rounds
        self._round = 0

    def world(self, namespace: str, name: str) -> World:
        """What exists for a service."""
        return self.worlds.setdefault(f"{namespace}/{name}", World())

    def run(self) -> None:
        while not self.stopped:
            self.awake.wait()
            if not self.down:
                self.reconcile_all()
            time.sleep(self._pause_s)

    def reconcile_all(self) -> None:
        """One round over all services."""
        self._round += 1
        found = self._client.get(SERVICES)
        for item in found.json().get("items", []) if found.is_success else []:
            self.reconcile(item)

    def reconcile(self, item: Object) -> None:
        """One service as it is to be."""
        metadata = item["metadata"]
        world = self.world(metadata["namespace"], metadata["name"])
        knative = metadata["annotations"][MODE] == "Knative"
        old = item.get("status") or {}
        new = self._knative(item, world, old) if knative else self._standard(item, world)
        new["deploymentMode"] = metadata["annotations"][MODE]
        if all(old.get(key) == new.get(key) for key in _OF_STATUS):
            return
        path = f"{SERVICES.rpartition('/')[0]}/namespaces/{metadata['namespace']}/inferenceservices"
        body = {
            "metadata": {"resourceVersion": metadata["resourceVersion"]},
            "status": {key: new.get(key) for key in _OF_STATUS},
        }
        # A conflict means that somebody was faster; the next round sees it.
        self._client.patch(
            f"{path}/{metadata['name']}/status",
            content=json.dumps(body),
            headers={"content-type": "application/merge-patch+json"},
        )

    def _loaded(self, workload: Workload) -> bool:
        ready = self._round - workload.made >= self._load_rounds
        return ready and "broken" not in workload.template and "never" not in workload.template

    def _model_status(self, workload: Workload) -> Object | None:
        if "broken" not in workload.template or self._round - workload.made < self._load_rounds:
            return None
        return {
            "transitionStatus": "BlockedByFailedLoad",
            "states": {"activeModelState": "", "targetModelState": "FailedToLoad"},
            "lastFailureInfo": {"reason": "ModelLoadFailed", "message": "not a GGUF file"},
        }

    def _knative(self, item: Object, world: World, old: Object) -> Object:
        name, predictor = item["metadata"]["name"], item["spec"]["predictor"]
        status = dict((old.get("components") or {}).get("predictor") or {})
        newest = f"{name}-predictor-{world.created:05}"
        template = _template(item, predictor)
        if not world.created or world.workloads[newest].template != template:
            world.created += 1
            newest = f"{name}-predictor-{world.created:05}"
            world.workloads[newest] = Workload(template, self._round)
        ready = status.get("latestReadyRevision", "")
        if self._loaded(world.workloads[newest]):
            ready = newest
        percent, rolled_out = predictor.get("canaryTrafficPercent"), status.get("latestRolledoutRevision", "")
        if percent is not None and rolled_out:
            targets = [_target(ready, percent, latest=True)]
            if percent < 100:
                targets.append(_target(rolled_out, 100 - percent, tag="prev"))
        else:
            targets = [_target(ready, 100, latest=True)] if ready else []
        world.traffic = {}
        for target in targets:
            revision = target["revisionName"]
            world.traffic[revision] = world.traffic.get(revision, 0) + target["percent"]
        latest = targets[0]["percent"] if targets else 0
        if ready and rolled_out != ready and latest == 100:
            status |= {"previousRolledoutRevision": rolled_out, "latestRolledoutRevision": ready}
        elif ready == newest == rolled_out and latest < 100 and world.traffic[ready] == 100:
            status["latestRolledoutRevision"] = status.get("previousRolledoutRevision") or rolled_out
        status |= {"latestCreatedRevision": newest, "latestReadyRevision": ready, "traffic": targets}
        return {
            "components": {"predictor": {key: value for key, value in status.items() if value}},
            "conditions": [_condition(bool(ready) and ready == newest)],
            "modelStatus": self._model_status(world.workloads[newest]),
        }

    def _standard(self, item: Object, world: World) -> Object:
        name, spec = item["metadata"]["name"], item["spec"]
        stable = _deployment(name, spec["predictor"].get("name"))
        canaries = {_deployment(name, c["predictor"]["name"]): c for c in spec.get("canary", [])}
        for gone in world.workloads.keys() - {stable, *canaries}:
            del world.workloads[gone]
        self._deploy(world, stable, _template(item, spec["predictor"]))
        statuses, shares = [], {}
        for deployment, canary in canaries.items():
            self._deploy(world, deployment, _template(item, {**spec["predictor"], **canary["predictor"]}))
            workload, percent = world.workloads[deployment], canary["trafficPercent"]
            of_stable = math.ceil(spec["predictor"].get("minReplicas", 1) * percent / 100)
            ready = canary["predictor"].get("minReplicas", of_stable) > 0 and self._loaded(workload)
            shares[deployment] = percent if ready else 0
            found = {"name": canary["predictor"]["name"], "ready": ready, "trafficPercent": percent}
            statuses.append(found | ({"modelStatus": s} if (s := self._model_status(workload)) else {}))
        world.traffic = {stable: 100 - sum(shares.values()), **shares}
        return {
            "components": {"predictor": {"latestCreatedRevision": "1"}},
            "conditions": [_condition(self._loaded(world.workloads[stable]))],
            "canaryStatuses": statuses or None,
        }

    def _deploy(self, world: World, name: str, template: str) -> None:
        existing = world.workloads.get(name)
        if existing is None:
            world.workloads[name] = Workload(template, self._round)
        elif existing.template != template:
            world.workloads[name] = Workload(template, self._round, existing.restarts + 1)


@contextmanager
def running_stand_in(client: httpx.Client) -> Iterator[KServeStandIn]:
    """Reconcile in a thread until the end."""
    stand_in = KServeStandIn(client)
    thread = threading.Thread(target=stand_in.run, daemon=True)
    thread.start()
    try:
        yield stand_in
    finally:
        stand_in.stopped = True
        stand_in.awake.set()
        thread.join()


def _template(item: Object, predictor: Object) -> str:
    """What the pods are made of: KServe puts the service's annotations into it as well."""
    kept = {key: value for key, value in predictor.items() if key not in _SCALING}
    kept["model"] = {key: value for key, value in kept["model"].items() if key != "name"}
    return json.dumps([kept, item["metadata"]["annotations"]], sort_keys=True)


def _deployment(service: str, predictor: str | None) -> str:
    return f"{service}-{predictor}-predictor" if predictor else f"{service}-predictor"


def _target(revision: str, percent: int, *, latest: bool = False, tag: str = "") -> Object:
    tagged = {"tag": tag, "url": f"http://{tag}-{revision}.example.com"} if tag else {}
    return {"revisionName": revision, "percent": percent, "latestRevision": latest, **tagged}


def _condition(holds: bool) -> Object:
    return {"type": "Ready", "status": "True" if holds else "Unknown"}
