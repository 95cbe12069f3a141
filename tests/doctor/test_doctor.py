"""`kserve-llamacpp doctor`: what hurts is found, and what to do about it is said."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from predictor.doctor import machine
from predictor.doctor.finding import Level

COMMAND = [sys.executable, "-m", "predictor.cli", "doctor"]
Objects = dict[str, Any]


def doctor(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], env=os.environ | environment, capture_output=True, text=True, timeout=120
    )


def test_this_machine(tmp_path: Path) -> None:
    """Whose hub is a port that nobody listens on."""
    hub = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    done = doctor(**hub)
    assert done.returncode == 0, done.stderr
    subjects = {line.split()[1] for line in done.stdout.splitlines() if not line.startswith(" ")}
    assert {"CPU", "cores", "memory", "disk", "port", "hub"} <= subjects
    assert "http://127.0.0.1:9 can't be reached" in done.stdout
    assert "-> serve files, set HF_ENDPOINT to a mirror" in done.stdout


def test_a_library_that_was_compiled_for_another_cpu() -> None:
    found = machine.examine_cpu({"avx", "avx2", "avx512f"}, ("AVX", "AVX2"))
    assert (found.level, "but the CPU has AVX512 too" in found.found) == (Level.NOTE, True)
    assert machine.examine_cpu({"avx2", "avx512f"}, ("AVX2", "AVX512")).level is Level.GOOD
    assert machine.examine_cpu({"avx2"}, ("AVX2",)).level is Level.GOOD
    assert "without AVX2" in machine.examine_cpu({"sse3"}, ("SSE3",)).found
    assert machine.examine_cpu({"asimd"}, ("NEON",)).level is Level.GOOD


@pytest.mark.parametrize(
    ("quota", "level", "text"),
    [
        (None, Level.GOOD, "no quota"),
        (2.0, Level.GOOD, "a quota of 2"),
        (0.5, Level.NOTE, "is stopped"),
        (1.5, Level.NOTE, "unused"),
    ],
)
def test_quotas(quota: float | None, level: Level, text: str) -> None:
    found = machine.examine_cores(4, quota, 1)
    assert (found.level, text in found.found) == (level, True)


def test_throttling(tmp_path: Path) -> None:
    assert machine.throttled_share(tmp_path) is None
    stat = tmp_path / "sys/fs/cgroup/cpu.stat"
    stat.parent.mkdir(parents=True)
    stat.write_text("usage_usec 12\nnr_periods 200\nnr_throttled 50\n")
    assert machine.throttled_share(tmp_path) == 0.25
    assert machine.examine_throttling(0.25).level is Level.NOTE
    assert machine.examine_throttling(0.0).level is Level.GOOD


def deployment(image: str) -> Objects:
    return {"metadata": {"labels": {}}, "spec": {"template": {"spec": {"containers": [{"image": image}]}}}}


SERVING = "/apis/serving.kserve.io"
CONTROLLER = "/apis/apps/v1/namespaces/kserve/deployments/kserve-controller-manager"
KSERVE_CONFIG = "/api/v1/namespaces/kserve/configmaps/inferenceservice-config"
KNATIVE_CONFIG = "/api/v1/namespaces/knative-serving/configmaps/config-defaults"
KNATIVE = "/apis/apps/v1/namespaces/knative-serving/deployments/controller"
ROUTES = "/apis/gateway.networking.k8s.io/v1/httproutes"
RUNTIMES = "/apis/serving.kserve.io/v1alpha1/clusterservingruntimes"
PODS = "/api/v1/pods"
OURS = "registry.example/kserve-llamacpp:0.1.0"
HEALTHY: Objects = {
    SERVING: {"kind": "APIGroup"},
    CONTROLLER: deployment("kserve/kserve-controller:v0.21.0"),
    KSERVE_CONFIG: {
        "data": {"deploy": '{"defaultDeploymentMode": "Standard"}', "ingress": '{"enableGatewayApi": true}'}
    },
    KNATIVE: deployment("gcr.io/knative/controller:v1.19.4"),
    KNATIVE_CONFIG: {
        "metadata": {},
        "data": {"revision-response-start-timeout-seconds": "1800", "revision-timeout-seconds": "1800"},
    },
    ROUTES: {
        "items": [
            {
                "metadata": {
                    "name": "chat",
                    "namespace": "models",
                    "ownerReferences": [{"kind": "InferenceService"}],
                },
                "spec": {"rules": [{"timeouts": {"request": "30m"}}, {}]},
            }
        ]
    },
    RUNTIMES: {
        "items": [
            {
                "metadata": {"name": "kserve-llamacpp"},
                "spec": {"supportedModelFormats": [{"name": "gguf"}], "containers": [{"image": OURS}]},
            }
        ]
    },
    PODS: {
        "items": [
            {
                "metadata": {"name": "chat-predictor-1", "namespace": "models"},
                "status": {"containerStatuses": [{"image": OURS, "state": {"running": {}}}]},
            }
        ]
    },
}


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Callable[[Objects], subprocess.CompletedProcess[str]]]:
    """A FAKE Kubernetes API that answers reads; no test machine has a cluster. None stands for forbidden."""
    objects: Objects = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status = 200 if objects.get(self.path) else 403 if self.path in objects else 404
            body = json.dumps(objects.get(self.path) or {"kind": "Status", "code": status}).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        named = {"cluster": "c", "user": "u"}
        kubeconfig = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "here",
            "contexts": [{"name": "here", "context": named}],
            "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
        }
        (tmp_path / "config").write_text(yaml.safe_dump(kubeconfig))

        def examine(there: Objects) -> subprocess.CompletedProcess[str]:
            objects.clear()
            objects.update(there)
            return doctor("--cluster", KUBECONFIG=str(tmp_path / "config"))

        yield examine
        server.shutdown()


def test_a_cluster_where_nothing_hurts(cluster: Callable[[Objects], Any]) -> None:
    done = cluster(HEALTHY)
    assert done.returncode == 0, done.stderr
    assert {line.split()[0] for line in done.stdout.splitlines()} == {"ok"}, done.stdout
    assert "0.21" in done.stdout


def test_a_cluster_where_much_does(cluster: Callable[[Objects], Any]) -> None:
    there = copy.deepcopy(HEALTHY)
    there[CONTROLLER] = deployment("kserve/kserve-controller:v0.20.0")
    there[KSERVE_CONFIG]["data"]["ingress"] = "{}"
    there[KNATIVE_CONFIG]["data"] = {}
    there[ROUTES]["items"][0]["spec"]["rules"][0]["timeouts"]["request"] = "60s"
    there[RUNTIMES]["items"][0]["spec"]["containers"][0]["image"] = "kserve-llamacpp:0.1.0"
    status = there[PODS]["items"][0]["status"]["containerStatuses"][0]
    status["state"] = {"waiting": {"reason": "ImagePullBackOff"}}
    status["lastState"] = {"terminated": {"reason": "OOMKilled"}}
    done = cluster(there)
    assert done.returncode == 1
    for part in (
        "0.20: its canaries in Standard mode get no share",
        "Ingresses, which have no weights",
        "revision-response-start-timeout-seconds is 300",
        "route models/chat cuts answers after 60s",
        "kserve-llamacpp:0.1.0 names no registry",
        "pod models/chat-predictor-1 can't get",
        "pod models/chat-predictor-1 was killed for its memory",
    ):
        assert part in done.stdout, part


def test_an_empty_cluster_and_one_that_may_not_be_read(cluster: Callable[[Objects], Any]) -> None:
    empty = cluster({})
    assert empty.returncode == 1
    assert "no ServingRuntime serves the format gguf" in empty.stdout
    closed = cluster(dict.fromkeys(HEALTHY))
    assert closed.returncode == 0
    assert closed.stdout.count("may not be read") == 5, closed.stdout
    assert "Traceback" not in empty.stderr + closed.stderr


def test_no_cluster(tmp_path: Path) -> None:
    done = doctor("--cluster", KUBECONFIG=str(tmp_path / "none"))
    assert done.returncode == 1
    assert "error: the cluster can't be reached" in done.stderr
    assert "Traceback" not in done.stderr
