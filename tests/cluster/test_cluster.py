"""End to end on a cluster: the steps of docs/kubernetes.md, with what they promise counted."""

from __future__ import annotations

import pytest
from live_cluster import Cluster, revisions_hit, wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3600)]

REQUESTS = 200


@pytest.fixture(scope="module")
def standard(cluster: Cluster) -> Cluster:
    """The InferenceService of manifests/base, ready."""
    cluster.apply_folder("manifests/base")
    cluster.wait_ready()
    return cluster


def test_pods_pass_pod_security_restricted(standard: Cluster) -> None:
    """The API server itself says so, storage initializer included."""
    label = "pod-security.kubernetes.io/enforce=restricted"
    warnings = standard.kubectl(
        "label", "--dry-run=server", "--overwrite", "namespace", standard.namespace, label
    )
    assert "violate" not in warnings


def test_one_quantisation_was_downloaded(standard: Cluster) -> None:
    name = standard.pods()[0]["metadata"]["name"]
    container = ("--container", "kserve-container")
    files = standard.kubectl("exec", name, *container, "--", "find", "/mnt/models", "-name", "*.gguf").split()
    assert len(files) == 1


def test_v1(standard: Cluster) -> None:
    with standard.client() as client:
        body = {"instances": [{"prompt": "Hello", "max_tokens": 4}]}
        answer = client.post("/v1/models/chat:predict", json=body)
    assert answer.status_code == 200
    assert answer.json()["predictions"][0]["text"]


def test_v2(standard: Cluster) -> None:
    prompt = {"name": "prompt", "shape": [1], "datatype": "BYTES", "data": ["Hello"]}
    with standard.client() as client:
        body = {"inputs": [prompt], "parameters": {"max_tokens": 4}}
        answer = client.post("/v2/models/chat/infer", json=body)
    assert answer.status_code == 200
    assert {output["name"] for output in answer.json()["outputs"]} >= {"text", "finish_reason"}


def test_openai(standard: Cluster) -> None:
    body = {"model": "chat", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
    with standard.client() as client:
        answer = client.post("/openai/v1/chat/completions", json=body)
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["message"]["content"]


@pytest.fixture(scope="module")
def knative(cluster: Cluster) -> Cluster:
    """The stable version in Knative mode, made anew since an InferenceService keeps its mode."""
    cluster.kubectl("delete", "inferenceservice", "chat", "--ignore-not-found", "--wait=true")
    cluster.apply_folder("manifests/overlays/canary/knative/1-stable")
    cluster.wait_ready()
    return cluster


def step(cluster: Cluster, name: str) -> str:
    """Apply a step of the canary; returns the newest revision."""
    cluster.apply_folder(f"manifests/overlays/canary/knative/{name}")
    cluster.wait_ready()
    return str(
        cluster.get("inferenceservice", "chat")["status"]["components"]["predictor"]["latestReadyRevision"]
    )


@pytest.mark.parametrize(("name", "percent"), [("2-canary-0", 0), ("3-canary-10", 10), ("4-canary-50", 50)])
def test_canary_gets_its_share(knative: Cluster, name: str, percent: int) -> None:
    """Within four standard deviations of a fair draw."""
    newest = step(knative, name)
    hit = revisions_hit(knative, REQUESTS)
    assert sum(hit.values()) == REQUESTS
    deviation = (REQUESTS * percent / 100 * (1 - percent / 100)) ** 0.5
    assert abs(hit.get(newest, 0) - REQUESTS * percent / 100) <= 4 * deviation


def test_rollback_takes_all_traffic_back(knative: Cluster) -> None:
    newest = step(knative, "6-rollback")
    hit = revisions_hit(knative, 50)
    assert hit.get(newest, 0) == 0
    assert sum(hit.values()) == 50


def test_promotion_gives_the_new_version_all_traffic(knative: Cluster) -> None:
    newest = step(knative, "5-promote")
    assert revisions_hit(knative, 50) == {newest: 50}


def test_scale_to_zero_and_back(cluster: Cluster) -> None:
    cluster.kubectl("delete", "inferenceservice", "chat", "--ignore-not-found", "--wait=true")
    cluster.apply_folder("manifests/overlays/scale-to-zero/knative")
    cluster.wait_ready()
    # The retention of ten minutes, and the time Knative takes to notice.
    wait_for(lambda: not cluster.pods(), 1200, "the pods are still there")
    with cluster.gateway() as client:
        answer = client.post(
            "/v1/models/chat:predict", json={"instances": [{"prompt": "Hi", "max_tokens": 1}]}
        )
    assert answer.status_code == 200, "the first request has to wait, not to fail"
    assert cluster.pods()
