"""Kubernetes' own Go code as a command, for what Python has no library for; see kubecheck/main.go."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

from rendered_manifests import Object

SOURCE = Path(__file__).parent / "kubecheck"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kserve-llamacpp" / "kubecheck"
NO_GO = "go is not installed, which compiles tests/manifests/kubecheck"
DECODED = {
    ("monitoring.coreos.com/v1", "PodMonitor"),
    ("monitoring.coreos.com/v1", "PrometheusRule"),
    ("autoscaling.k8s.io/v1", "VerticalPodAutoscaler"),
}


def has_go() -> bool:
    """Whether the command can be built here."""
    return shutil.which("go") is not None


def decode(item: Object) -> list[str]:
    """What the strict decoder says against an object of one of the kinds in `DECODED`."""
    return _run(item, "decode")


def restricted(pod_spec: Object, version: str = "latest") -> list[str]:
    """What the Pod Security Standard "restricted" says against a pod."""
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": pod_spec}
    return _run(pod, "restricted", version)


def condition_holds(condition: str, body: Object) -> bool:
    """Whether a condition of an InferenceGraph's Switch holds for a request body."""
    return not _run(body, "gjson", condition)


def _run(document: Object, *arguments: str) -> list[str]:
    result = subprocess.run(
        [_built(), *arguments], input=json.dumps(document), capture_output=True, text=True, check=False
    )
    assert result.returncode in (0, 1), result.stderr
    return result.stdout.splitlines()


@cache
def _built() -> Path:
    """Go's own build cache makes this fast from the second time on."""
    command = CACHE / "kubecheck"
    subprocess.run(["nice", "go", "build", "-o", command, "."], cwd=SOURCE, check=True)
    return command
