"""Rollouts over both mechanisms, on a real API server for custom resources."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster_front import USER, Seen
from polling import wait_until
from rollout_bench import FIRST_KNATIVE, FIRST_STANDARD, NAME, NEW, OLD, QUICK, Bench, Says

from rollout import Outcome, Plan, Rollout
from rollout.errors import (
    ClusterUnreachable,
    ForeignChange,
    MissingRights,
    NoRollout,
    NotPossibleNow,
    RolloutInProgress,
    ServiceNotFound,
    UnsuitableService,
)
from rollout.judging import Judging
from rollout.record import Phase
from rollout.result import Snapshot
from rollout.verdict import Decision

# The first test may have to compile the server.
pytestmark = pytest.mark.timeout(1800)

RBAC = Path(__file__).resolve().parents[2] / "manifests" / "rollout" / "rbac.yaml"


def model(bench: Bench) -> str:
    return str(bench.spec()["predictor"]["model"]["storageUri"])


def test_good_canary_goes_through_all_steps_and_is_promoted(bench: Bench, mode: str) -> None:
    bench.create(mode)
    judge = Says()
    result = bench.rollout(judge).start(NEW, QUICK)
    assert result.outcome is Outcome.PROMOTED
    assert bench.percents() == [0, 5, 25, 50, 100]
    assert [canary.traffic_percent for _, canary in judge.asked] == [0, 5, 25, 50, 100]
    assert model(bench) == NEW
    assert "canary" not in bench.spec()
    assert "canaryTrafficPercent" not in bench.spec()["predictor"]
    assert bench.world.traffic == {judge.asked[-1][1].name: 100}
    # A record in the service's own annotations would restart pods, since KServe copies those into them.
    assert sum(workload.restarts for workload in bench.world.workloads.values()) == 0
    if mode == "Knative":
        assert bench.world.created == 2


def test_scaling_of_the_stable_predictor_survives_a_promotion(bench: Bench, mode: str) -> None:
    bench.create(mode, minReplicas=2, maxReplicas=7)
    bench.rollout().start(NEW, QUICK)
    predictor = bench.spec()["predictor"]
    assert (predictor["minReplicas"], predictor["maxReplicas"]) == (2, 7)


def test_canary_has_replicas_for_its_share(bench: Bench) -> None:
    bench.create("Standard", minReplicas=4)
    bench.rollout().start(NEW, QUICK)
    specs = [s.body["spec"] for s in bench.front.seen if s.writes_service and "spec" in s.body]
    entries = [spec["canary"][0] for spec in specs if spec.get("canary")]
    shares = {entry["trafficPercent"]: entry["predictor"]["minReplicas"] for entry in entries}
    assert shares == {0: 1, 5: 1, 25: 1, 50: 2, 100: 4}


def test_standard_service_that_scales_to_zero_is_refused(bench: Bench) -> None:
    bench.create("Standard", minReplicas=0)
    with pytest.raises(UnsuitableService, match="minReplicas 0"):
        bench.rollout().start(NEW, QUICK)


@pytest.mark.parametrize(
    "percent", [pytest.param(0, marks=pytest.mark.slow), pytest.param(5, marks=pytest.mark.slow), 100]
)
def test_bad_canary_is_rolled_back(bench: Bench, mode: str, percent: int) -> None:
    bench.create(mode)
    before = bench.spec()
    result = bench.rollout(Says({percent: Decision.ROLL_BACK})).start(NEW, QUICK)
    assert result.outcome is Outcome.ROLLED_BACK
    assert result.reasons == (f"roll back at {percent}%",)
    assert bench.spec() == before
    assert max(p for p in bench.percents()) == percent
    serving = [name for name, share in bench.world.traffic.items() if share]
    assert len(serving) == 1
    assert OLD in bench.world.workloads[serving[0]].template


def test_canary_that_cannot_load_is_rolled_back_with_kserves_reason(bench: Bench, mode: str) -> None:
    bench.create(mode)
    before = bench.spec()
    result = bench.rollout().start("hf://owner/broken", QUICK)
    assert result.outcome is Outcome.ROLLED_BACK
    assert "ModelLoadFailed: not a GGUF file" in result.reasons[0]
    assert bench.spec() == before
    assert bench.percents()[0] == 0


def test_second_rollout_works_after_the_first(bench: Bench, mode: str) -> None:
    bench.create(mode)
    for reference in (NEW, OLD):
        assert bench.rollout().start(reference, QUICK).outcome is Outcome.PROMOTED
        assert model(bench) == reference
        assert sum(bench.world.traffic.values()) == 100


@FIRST_STANDARD
def test_no_verdict_in_time_pauses_and_resume_goes_on(bench: Bench, mode: str) -> None:
    bench.create(mode)
    bench.pause_at(25)
    snapshot = bench.rollout().status()
    assert snapshot.record is not None
    assert "no verdict" in snapshot.record.paused
    assert snapshot.observed is not None
    assert snapshot.observed.percent == 25
    assert bench.rollout().resume().outcome is Outcome.PROMOTED
    assert bench.percents() == [0, 5, 25, 50, 100]


def test_step_pause_and_promote_by_hand(bench: Bench, mode: str) -> None:
    bench.create(mode)
    bench.pause_at(25)
    stepped = bench.rollout().step()
    assert stepped.record is not None
    assert (stepped.record.percent, bool(stepped.record.paused)) == (50, True)
    wait_until(lambda: sorted(bench.world.traffic.values()) == [50, 50])
    assert bench.rollout().promote().outcome is Outcome.PROMOTED
    assert model(bench) == NEW


def test_step_after_the_last_promotes(bench: Bench, mode: str) -> None:
    bench.create(mode)
    plan = Plan((30,), 0.0, 60.0, 0.001)
    bench.rollout(Says({30: Decision.WAIT})).start(NEW, plan)
    stepped = bench.rollout().step()
    assert stepped.record is not None
    assert stepped.record.phase is Phase.PROMOTING
    assert bench.rollout().resume().outcome is Outcome.PROMOTED


def test_rollback_can_be_repeated(bench: Bench, mode: str) -> None:
    bench.create(mode)
    before = bench.spec()
    bench.pause_at(25)
    assert bench.rollout().rollback("looks odd").outcome is Outcome.ROLLED_BACK
    assert bench.spec() == before
    generation = bench.get()["metadata"]["generation"]
    assert bench.rollout().rollback().outcome is Outcome.ROLLED_BACK
    assert bench.get()["metadata"]["generation"] == generation


@FIRST_STANDARD
def test_promoted_rollout_is_not_rolled_back(bench: Bench, mode: str) -> None:
    bench.create(mode)
    bench.rollout().start(NEW, QUICK)
    with pytest.raises(NoRollout, match=OLD):
        bench.rollout().rollback()
    assert model(bench) == NEW


@FIRST_STANDARD
def test_second_rollout_at_once_is_refused(bench: Bench, mode: str) -> None:
    bench.create(mode)
    bench.pause_at(25)
    before = bench.get()
    with pytest.raises(RolloutInProgress, match=f"{NEW}.*25%.*{USER}.*--resume"):
        bench.rollout().start("hf://owner/other", QUICK)
    assert bench.get() == before


@FIRST_KNATIVE
def test_two_that_start_at_the_same_moment_do_not_both_win(bench: Bench, mode: str) -> None:
    """The other one gets in between our look and our patch."""
    bench.create(mode)
    raced: list[Outcome] = []

    def race(seen: Seen, _: int) -> None:
        if seen.dry_run and not raced:
            raced.append(Outcome.PAUSED)
            bench.pause_at(25)

    bench.front.after = race
    with pytest.raises(Exception, match=r"another command|already"):
        bench.rollout().start("hf://owner/other", QUICK)
    record = bench.rollout().status().record
    assert record is not None
    assert record.model == NEW


def conflicts(every: int) -> Any:
    """Answers of a server on which somebody else was faster, for every so many-th patch."""
    count = 0

    def before(seen: Seen) -> tuple[int, Any] | None:
        nonlocal count
        if seen.method != "PATCH":
            return None
        count += 1
        message = {"kind": "Status", "message": "the object has been modified", "code": 409}
        return (409, message) if count % every == 1 else None

    return before


@pytest.mark.slow
def test_conflicts_are_retried(bench: Bench, mode: str) -> None:
    bench.create(mode)
    bench.front.before = conflicts(3)
    assert bench.rollout().start(NEW, QUICK).outcome is Outcome.PROMOTED
    answered = [seen for seen in bench.front.seen if seen.method == "PATCH"]
    assert all(seen.body["metadata"]["resourceVersion"] for seen in answered)
    assert model(bench) == NEW


def test_real_conflict_is_retried(bench: Bench, mode: str) -> None:
    """Somebody labels the service between each look and each patch: the server answers 409 by itself."""
    bench.create(mode)
    writes: list[int] = []

    def meddle(seen: Seen) -> None:
        if seen.writes_service and len(writes) % 2 == 0:
            bench.edit({"metadata": {"labels": {"touched": str(len(writes))}}})

    def count(seen: Seen, status: int) -> None:
        if seen.writes_service:
            writes.append(status)

    bench.front.before, bench.front.after = meddle, count  # type: ignore[assignment]
    assert bench.rollout().start(NEW, QUICK).outcome is Outcome.PROMOTED
    assert writes.count(409) >= 5


@FIRST_STANDARD
def test_server_errors_are_retried(bench: Bench, mode: str) -> None:
    bench.create(mode)
    count = 0

    def before(_: Seen) -> tuple[int, Any] | None:
        nonlocal count
        count += 1
        return (503, {"message": "overloaded"}) if count % 3 == 0 else None

    bench.front.before = before
    assert bench.rollout().start(NEW, QUICK).outcome is Outcome.PROMOTED


def foreign_edit(mode: str) -> dict[str, Any]:
    return {"spec": {"predictor": {"timeout": 77}}}


def test_foreign_change_stops_the_rollout(bench: Bench, mode: str) -> None:
    bench.create(mode)
    judge = Says()

    def edit(seen: Seen) -> None:
        if seen.method == "GET" and bench.percents()[-1:] == [25] and not edited:
            edited.append(True)
            bench.edit(foreign_edit(mode))

    edited: list[bool] = []
    bench.front.before = edit  # type: ignore[assignment]
    with pytest.raises(ForeignChange, match=r"kubectl-edit.*spec.predictor.timeout.*rollback chat --leave"):
        bench.rollout(judge).start(NEW, QUICK)
    assert bench.percents()[-1] == 25
    assert bench.spec()["predictor"]["timeout"] == 77
    record = bench.rollout().status().record
    assert record is not None
    assert "kubectl-edit" in record.paused
    assert [event["reason"] for event in bench.front.events][-1] == "RolloutStopped"
    with pytest.raises(ForeignChange):
        bench.rollout().resume()
    with pytest.raises(ForeignChange):
        bench.rollout().step()


def test_rollback_after_a_foreign_change(bench: Bench, mode: str) -> None:
    bench.create(mode)
    bench.pause_at(25)
    assert not bench.rollout().status().foreign
    bench.edit(foreign_edit(mode))
    assert "kubectl-edit" in bench.rollout().status().foreign
    assert bench.rollout().rollback().outcome is Outcome.ROLLED_BACK
    assert model(bench) == OLD
    serving = [name for name, share in bench.world.traffic.items() if share]
    assert len(serving) == 1
    assert "canary" not in bench.spec()


@FIRST_KNATIVE
def test_leave_ends_the_rollout_and_touches_nothing(bench: Bench, mode: str) -> None:
    bench.create(mode)
    bench.pause_at(25)
    bench.edit(foreign_edit(mode))
    before = bench.spec()
    assert bench.rollout().rollback(leave=True).outcome is Outcome.LEFT
    assert bench.spec() == before


def test_change_that_is_set_back_is_noticed(bench: Bench, mode: str) -> None:
    """As a GitOps controller would do, which must not end in a tug of war."""
    bench.create(mode)
    reverted: list[bool] = []

    def revert(seen: Seen) -> None:
        if seen.method == "GET" and bench.percents()[-1:] == [25] and not reverted:
            reverted.append(True)
            canary = bench.spec().get("canary")
            if canary:
                canary[0]["trafficPercent"] = 5
                bench.edit({"spec": {"canary": canary}}, "gitops")
            else:
                bench.edit({"spec": {"predictor": {"canaryTrafficPercent": 5}}}, "gitops")

    bench.front.before = revert  # type: ignore[assignment]
    with pytest.raises(ForeignChange, match="gitops"):
        bench.rollout().start(NEW, QUICK)


def test_missing_rights_are_listed_before_anything_is_changed(bench: Bench, mode: str) -> None:
    bench.create(mode)
    before = bench.get()
    bench.front.denied = {"patch inferenceservices/status", "create events"}
    with pytest.raises(MissingRights) as caught:
        bench.rollout().start(NEW, QUICK)
    assert "patch inferenceservices.serving.kserve.io/status" in caught.value.message
    assert "create events" in caught.value.message
    assert "get inferenceservices" not in caught.value.message
    assert bench.get() == before


@FIRST_STANDARD
def test_rights_on_the_named_objects_are_enough(bench: Bench, mode: str) -> None:
    """As manifests/rollout/rbac.yaml grants them, by resourceNames."""
    bench.create(mode)
    role = next(yaml.safe_load_all(RBAC.read_text()))
    bench.front.only_named = {
        resource.partition("/")[0]: rule["resourceNames"][0]
        for rule in role["rules"]
        if "resourceNames" in rule
        for resource in rule["resources"]
    }
    assert len(bench.front.only_named) == 2
    assert bench.rollout().start(NEW, QUICK).outcome is Outcome.PROMOTED


@FIRST_STANDARD
def test_judges_that_ask_pods_need_rights_on_pods(bench: Bench, mode: str) -> None:
    bench.create(mode)
    bench.front.denied = {"list pods", "create pods/proxy"}
    options = {"judging": Judging(metrics="pods")}
    with pytest.raises(MissingRights, match="list pods"):
        Rollout(NAME, bench.cluster()).start(NEW, QUICK, **options)
    assert Rollout(NAME, bench.cluster()).preview(NEW, QUICK, **options).missing
    assert bench.rollout(Says()).start(NEW, QUICK, **options).outcome is Outcome.PROMOTED


def test_preview_changes_nothing(bench: Bench, mode: str) -> None:
    bench.create(mode)
    before = bench.get()
    preview = bench.rollout().preview(NEW, QUICK)
    assert bench.get() == before
    assert preview.patch["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]
    assert f"+  storageUri: {NEW}" in preview.diff
    assert f"-  storageUri: {OLD}" in preview.diff
    bench.edit(preview.patch)  # the patch is one that the API server takes
    assert bench.spec() != before["spec"]


@FIRST_KNATIVE
def test_history_and_events_say_who_did_what(bench: Bench, mode: str) -> None:
    bench.create(mode)
    bench.pause_at(25)
    bench.rollout().rollback("looks odd")
    entries = bench.rollout().history()
    actions = [
        (entry.action, entry.percent) for entry in entries if entry.action not in {"restore", "finish"}
    ]
    assert actions == [
        ("start", 0),
        ("step", 5),
        ("step", 25),
        ("pause", 25),
        ("roll back", 0),
        ("rolled back", 0),
    ]
    assert {entry.by for entry in entries} == {USER}
    assert entries[-1].model == NEW
    reasons = [event["reason"] for event in bench.front.events]
    assert reasons == ["RolloutStarted", "RolloutStep", "RolloutStep", "RolloutPaused", "RolloutRolledBack"]
    event = bench.front.events[-1]
    assert event["type"] == "Warning"
    assert "looks odd" in event["message"]
    assert event["involvedObject"]["uid"] == bench.get()["metadata"]["uid"]


def test_history_is_read_from_events_where_the_annotations_are_lost(bench: Bench) -> None:
    bench.create("Knative")
    bench.pause_at(25)
    bench.rollout().rollback("looks odd")
    whole = bench.rollout().history()
    assert len(whole) == len(set(whole))
    bench.forget()
    found = bench.rollout().history()
    assert [entry.action for entry in found] == ["start", "step", "step", "pause", "rolled back"]
    assert set(found) <= set(whole)
    bench.front.denied = {"list events"}
    assert bench.rollout().history() == ()


def test_diff_shows_what_changes(bench: Bench, mode: str) -> None:
    bench.create(mode)
    with pytest.raises(NoRollout):
        bench.rollout().diff()
    assert f"+  storageUri: {NEW}" in bench.rollout().diff(NEW)
    bench.pause_at(25)
    assert f"+  storageUri: {NEW}" in bench.rollout().diff()


@pytest.mark.parametrize(
    ("reference", "message"), [("owner/new", "no model reference"), (OLD, "serves .* already")]
)
def test_unusable_models_are_refused(bench: Bench, mode: str, reference: str, message: str) -> None:
    bench.create(mode)
    with pytest.raises(UnsuitableService, match=message):
        bench.rollout().start(reference, QUICK)
    assert bench.percents() == []


def test_canaries_of_others_are_refused(bench: Bench, mode: str) -> None:
    bench.create(mode)
    if mode == "Knative":
        bench.edit({"spec": {"predictor": {"canaryTrafficPercent": 10}}})
    else:
        own = bench.spec()["predictor"]
        own |= {"name": "theirs", "model": {**own["model"], "name": "kserve-container"}}
        bench.edit({"spec": {"canary": [{"predictor": own, "trafficPercent": 10}]}})
    with pytest.raises(UnsuitableService):
        bench.rollout().start(NEW, QUICK)


def test_standard_mode_without_a_route_is_refused(bench: Bench) -> None:
    bench.create("Standard")
    routes = f"/apis/gateway.networking.k8s.io/v1/namespaces/{bench.namespace}/httproutes"
    bench.server.client.delete(f"{routes}/{NAME}-predictor").raise_for_status()
    with pytest.raises(UnsuitableService, match="Gateway API"):
        bench.rollout().start(NEW, QUICK)


def test_unreachable_cluster_is_said_to_be_that(bench: Bench) -> None:
    bench.kubeconfig.write_text(bench.kubeconfig.read_text().replace(bench.front.url, "http://127.0.0.1:1"))
    with pytest.raises(ClusterUnreachable, match="doesn't answer"):
        bench.rollout().status()


def test_unknown_service(bench: Bench) -> None:
    with pytest.raises(ServiceNotFound, match="no InferenceService chat"):
        bench.rollout().status()


def test_canary_that_never_gets_ready_takes_no_step_and_is_rolled_back(bench: Bench, mode: str) -> None:
    bench.create(mode)
    before = bench.spec()
    caught: list[str] = []

    def try_step(snapshot: Snapshot) -> None:
        if not caught and snapshot.observed and not snapshot.observed.ready:
            with pytest.raises(NotPossibleNow, match="not ready") as error:
                bench.rollout().step()
            caught.append(error.value.message)

    plan = Plan(interval_s=0.0, ready_timeout_s=1.0)
    result = bench.rollout(on_progress=try_step).start("hf://owner/never", plan)
    assert caught
    assert result.outcome is Outcome.ROLLED_BACK
    assert "not ready" in result.reasons[0]
    assert bench.percents()[0] == 0
    assert max(bench.percents()) == 0
    assert bench.spec() == before
