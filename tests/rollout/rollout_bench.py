"""What rollout tests do with a namespace of the cluster."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from cluster_front import ClusterFront
from crd_server import CrdServer
from kserve_stand_in import KServeStandIn, World
from kubernetes import config
from polling import wait_until
from quick_command import run_here

from rollout import Cluster, Outcome, Plan, Rollout
from rollout.record import RECORD
from rollout.verdict import Decision, Judge, Revision, Verdict

OLD, NEW = "hf://owner/old", "hf://owner/new"
NAME = "chat"
QUICK = Plan(interval_s=0.0, ready_timeout_s=60.0, verdict_timeout_s=60.0)
UNJUDGED = ("--interval", "0s", "--metrics", "none")
# For what hardly hangs on the mode: the other one is tested among the slow tests.
FIRST_STANDARD, FIRST_KNATIVE = (
    pytest.mark.parametrize("mode", [first, pytest.param(other, marks=pytest.mark.slow)])
    for first, other in permutations(("Standard", "Knative"))
)
COMMAND = (sys.executable, "-m", "predictor.cli", "rollout")


class Says:
    """A judge that gives prepared decisions by the canary's traffic; PROCEED otherwise."""

    def __init__(self, decisions: dict[int, Decision] | None = None) -> None:
        self.decisions = decisions or {}
        self.asked: list[tuple[Revision, Revision]] = []

    def judge(self, stable: Revision, canary: Revision, elapsed_s: float) -> Verdict:
        self.asked.append((stable, canary))
        decision = self.decisions.get(canary.traffic_percent, Decision.PROCEED)
        return Verdict(decision, (f"{decision} at {canary.traffic_percent}%",))


@dataclass
class Bench:
    """One namespace, its cluster, and the InferenceService `chat` in it."""

    namespace: str
    kubeconfig: Path
    front: ClusterFront
    kserve: KServeStandIn
    server: CrdServer

    @property
    def path(self) -> str:
        return f"/apis/serving.kserve.io/v1beta1/namespaces/{self.namespace}/inferenceservices"

    @property
    def world(self) -> World:
        """What the stand-in has made of the service."""
        return self.kserve.world(self.namespace, NAME)

    def create(self, mode: str, **predictor: Any) -> None:
        """Make the service, with its route, and wait until it is ready."""
        model = {"modelFormat": {"name": "gguf"}, "protocolVersion": "v2", "storageUri": OLD, "name": ""}
        service = {
            "apiVersion": "serving.kserve.io/v1beta1",
            "kind": "InferenceService",
            "metadata": {"name": NAME, "annotations": {"serving.kserve.io/deploymentMode": mode}},
            "spec": {"predictor": {"minReplicas": 1, "maxReplicas": 3, "model": model, **predictor}},
        }
        response = self.server.create(self.path, service)
        assert response.is_success, response.text
        if mode == "Standard":
            self._create_route()
        wait_until(self._ready)

    def delete(self) -> None:
        """Remove the service, if there is one."""
        self.server.client.delete(f"{self.path}/{NAME}")
        self.kserve.worlds.pop(f"{self.namespace}/{NAME}", None)

    def _create_route(self) -> None:
        route = {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "HTTPRoute",
            "metadata": {"name": f"{NAME}-predictor"},
            "spec": {"hostnames": ["chat.example.com"]},
        }
        path = f"/apis/gateway.networking.k8s.io/v1/namespaces/{self.namespace}/httproutes"
        response = self.server.create(path, route)
        assert response.is_success, response.text

    def _ready(self) -> bool:
        conditions = (self.get().get("status") or {}).get("conditions") or []
        return any((c["type"], c["status"]) == ("Ready", "True") for c in conditions)

    def get(self) -> dict[str, Any]:
        """The service, straight from the API server."""
        return dict(self.server.client.get(f"{self.path}/{NAME}").raise_for_status().json())

    def spec(self) -> dict[str, Any]:
        return dict(self.get()["spec"])

    def edit(self, change: dict[str, Any], manager: str = "kubectl-edit") -> None:
        """Change the service as somebody else would."""
        self.server.client.patch(
            f"{self.path}/{NAME}",
            params={"fieldManager": manager},
            json=change,
            headers={"content-type": "application/merge-patch+json"},
        ).raise_for_status()

    def edit_record(self, **plan: Any) -> None:
        """Change the plan of the rollout under way, which no command does."""
        text = self.get()["status"]["annotations"][RECORD]
        record = json.loads(text)
        record["plan"] |= plan
        self._patch_status({"annotations": {RECORD: json.dumps(record)}})

    def _patch_status(self, status: dict[str, Any]) -> None:
        headers = {"content-type": "application/merge-patch+json"}
        answer = self.server.client.patch(
            f"{self.path}/{NAME}/status", json={"status": status}, headers=headers
        )
        answer.raise_for_status()

    def forget(self) -> None:
        """Remove what rollouts have left on the service."""
        self._patch_status({"annotations": None})

    def cluster(self) -> Cluster:
        api = config.new_client_from_config(str(self.kubeconfig))
        return Cluster(api, self.namespace, retry_s=0.01)

    def rollout(self, judge: Judge | None = None, **options: Any) -> Rollout:
        judges = [judge] if judge else []
        return Rollout(NAME, self.cluster(), judges=judges, poll_s=0.02, hold_s=0.1, **options)

    def pause_at(self, percent: int) -> None:
        """Start a rollout that has no verdict with so much traffic."""
        plan = Plan(interval_s=0.0, ready_timeout_s=60.0, verdict_timeout_s=0.001)
        result = self.rollout(Says({percent: Decision.WAIT})).start(NEW, plan)
        assert (result.outcome, result.percent) == (Outcome.PAUSED, percent)

    def command(self, *arguments: str, program: Sequence[str] = COMMAND) -> subprocess.Popen[str]:
        """Start a command as a user would."""
        here = str(Path(__file__).parent)
        environment = {"KUBECONFIG": str(self.kubeconfig), "COLUMNS": "200", "PYTHONPATH": here}
        pipe = subprocess.PIPE
        return subprocess.Popen(
            [*program, *arguments], env=os.environ | environment, stdout=pipe, stderr=pipe, text=True
        )

    def run_process(self, *arguments: str) -> tuple[int, str, str]:
        """Run a command as a user would, to its end: status, output, errors."""
        process = self.command(*arguments)
        output, errors = process.communicate(timeout=600)
        return process.returncode, output, errors

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """The same in this process and with shorter pauses, which is many times faster."""
        return run_here(self.kubeconfig, *arguments)

    def percents(self) -> list[int]:
        """The canary's traffic in the order in which it was set on the service."""
        found: list[int] = []
        for seen in self.front.seen:
            if not seen.writes_service or seen.path.partition("?")[0].endswith("/status"):
                continue
            spec = seen.body["spec"]
            percent = (spec.get("predictor") or {}).get("canaryTrafficPercent")
            if spec.get("canary"):
                percent = spec["canary"][0]["trafficPercent"]
            if percent is not None:
                found.append(percent)
        return found
