"""`kserve-llamacpp rollout` on a cluster, in both modes: traffic counted, pods watched, state read back."""

from __future__ import annotations

import pytest
from live_cluster import REVISION_LABEL, Cluster, revisions_hit

from rollout import Cluster as Api
from rollout import Outcome, Plan, Rollout
from rollout.verdict import Decision, Revision, Verdict

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(7200)]

MODEL = "hf://Qwen/Qwen2.5-1.5B-Instruct-GGUF"
MISSING = "hf://Qwen/no-such-repository-GGUF"
REQUESTS = 200
STOP_AT_50 = Plan((50, 100), interval_s=0.0, ready_timeout_s=1800.0, verdict_timeout_s=0.001)
# A download that fails is tried again and again, so a short time has to be enough for this one.
IMPATIENT = Plan((50, 100), interval_s=0.0, ready_timeout_s=300.0)


class Undecided:
    """Waits once the canary has traffic, so that the rollout pauses there."""

    def judge(self, stable: Revision, canary: Revision, elapsed_s: float) -> Verdict:
        decision = Decision.WAIT if canary.traffic_percent else Decision.PROCEED
        return Verdict(decision, ("the test decides",))


@pytest.fixture(params=["knative", "standard"])
def mode(request: pytest.FixtureRequest, cluster: Cluster) -> str:
    """The stable version in one mode, made anew since an InferenceService keeps its mode."""
    cluster.kubectl("delete", "inferenceservice", "chat", "--ignore-not-found", "--wait=true")
    cluster.apply_folder(f"manifests/overlays/canary/{request.param}/1-stable")
    cluster.wait_ready()
    return str(request.param)


def rollout(cluster: Cluster, *judges: Undecided) -> Rollout:
    return Rollout("chat", Api.connect(cluster.namespace), judges=judges)


def pod_ids(cluster: Cluster) -> set[str]:
    return {pod["metadata"]["uid"] for pod in cluster.pods()}


def test_half_the_traffic_then_promotion_without_a_restart(cluster: Cluster, mode: str) -> None:
    stable = pod_ids(cluster)
    assert rollout(cluster, Undecided()).start(MODEL, STOP_AT_50).outcome is Outcome.PAUSED
    assert stable <= pod_ids(cluster), "the stable pods were restarted"
    canary = pod_ids(cluster) - stable
    hit = revisions_hit(cluster, REQUESTS, REVISION_LABEL if mode == "knative" else "app")
    deviation = (REQUESTS / 4) ** 0.5
    assert all(abs(count - REQUESTS / 2) <= 4 * deviation for count in hit.values())
    assert rollout(cluster).resume().outcome is Outcome.PROMOTED
    assert canary <= pod_ids(cluster), "the canary's pods were restarted"
    assert cluster.get("inferenceservice", "chat")["spec"]["predictor"]["model"]["storageUri"] == MODEL


def test_rollback_restores_the_service(cluster: Cluster, mode: str) -> None:
    before = cluster.get("inferenceservice", "chat")["spec"]
    rollout(cluster, Undecided()).start(MODEL, STOP_AT_50)
    assert rollout(cluster).rollback().outcome is Outcome.ROLLED_BACK
    cluster.wait_ready()
    assert cluster.get("inferenceservice", "chat")["spec"] == before
    events = cluster.kubectl(
        "get", "events", "--field-selector", "reason=RolloutRolledBack", "--output", "name"
    )
    assert events.strip()


def test_model_that_does_not_exist_is_rolled_back(cluster: Cluster, mode: str) -> None:
    before = cluster.get("inferenceservice", "chat")["spec"]
    result = rollout(cluster).start(MISSING, IMPATIENT)
    assert result.outcome is Outcome.ROLLED_BACK
    assert cluster.get("inferenceservice", "chat")["spec"] == before
