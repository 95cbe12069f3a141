"""The driver when answers are lost, the API server or the controller is away, or somebody interrupts."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_api import NAME, NAMESPACE, FakeApi, Fault, serving

from rollout import Cluster, Outcome, Plan, Rollout
from rollout import cluster as cluster_module
from rollout.errors import ClusterAway, NoRollout, NotPossibleNow, RolloutError
from rollout.record import RECORD, Phase
from rollout.result import Snapshot
from rollout.verdict import Decision, Revision, Verdict

OLD, NEW = "hf://owner/old", "hf://owner/new"
PLAN = Plan((25, 50, 100), interval_s=0.0, ready_timeout_s=5.0, verdict_timeout_s=5.0)


class Says:
    """PROCEED, but a mistake at one percentage, which pauses the rollout there."""

    def __init__(self, broken_at: int | None = None) -> None:
        self.broken_at = broken_at

    def judge(self, stable: Revision, canary: Revision, elapsed_s: float) -> Verdict:
        if canary.traffic_percent == self.broken_at:
            raise RolloutError("set up wrongly")
        return Verdict(Decision.PROCEED)


@pytest.fixture(params=["Standard", "Knative"])
def api(request: pytest.FixtureRequest) -> Iterator[FakeApi]:
    with serving(FakeApi(request.param)) as api:
        yield api


def rollout(api: FakeApi, broken_at: int | None = None, **options: Any) -> Rollout:
    cluster = Cluster(api.client(), NAMESPACE, retry_s=0.001)
    return Rollout(NAME, cluster, judges=[Says(broken_at)], poll_s=0.002, hold_s=0.02, **options)


def pause_at(api: FakeApi, percent: int) -> None:
    assert rollout(api, percent).start(NEW, PLAN).percent == percent


def model(api: FakeApi) -> str:
    return str(api.spec["predictor"]["model"]["storageUri"])


def phase(api: FakeApi) -> Phase | None:
    record = rollout(api).status().record
    return record and record.phase


def at_write(api: FakeApi, number: int, fault: Fault) -> None:
    """Let a fault hit the request that would be the so many-th write from now."""
    begun, hit = len(api.writes), False

    def before(_: int) -> Fault | None:
        nonlocal hit
        if hit or len(api.writes) - begun < number - 1 or not api.is_write:
            return None
        hit = True
        return fault

    api.before = before


@pytest.mark.parametrize("number", [1, 2])
def test_a_patch_whose_answer_was_lost_is_not_taken_for_somebody_elses(api: FakeApi, number: int) -> None:
    pause_at(api, 50)
    at_write(api, number, Fault.LOST_ANSWER)
    assert rollout(api).rollback().outcome is Outcome.ROLLED_BACK
    assert model(api) == OLD


@pytest.mark.parametrize("fault", Fault)
def test_a_pause_whose_answer_was_lost_is_a_pause(api: FakeApi, fault: Fault) -> None:
    with pytest.raises(KeyboardInterrupt):
        rollout(api, on_progress=interrupt).start(NEW, PLAN)
    at_write(api, 1, fault)
    snapshot = rollout(api).pause("look first")
    assert snapshot.record is not None
    assert snapshot.record.paused == "look first"


def interrupt(_: Snapshot) -> None:
    raise KeyboardInterrupt


def test_an_api_server_that_is_away_is_waited_for_and_that_is_said(api: FakeApi) -> None:
    """For many times as long as one call is repeated."""
    said: list[str] = []
    away = range(25, 95)
    api.before = lambda number: Fault.LOST_REQUEST if number in away else None
    result = rollout(api, on_progress=lambda snapshot: said.append(snapshot.unreachable)).start(NEW, PLAN)
    assert result.outcome is Outcome.PROMOTED
    assert any("doesn't answer" in text and "trying again" in text for text in said)
    assert not said[-1]


def test_an_api_server_that_stays_away_ends_the_command_with_a_word(api: FakeApi) -> None:
    api.before = lambda number: Fault.ERROR if number > 25 else None
    plan = Plan((25, 100), interval_s=0.0, ready_timeout_s=0.3, verdict_timeout_s=1.0)
    with pytest.raises(ClusterAway, match=r"nobody watches the canary.*rollout start chat --resume"):
        rollout(api).start(NEW, plan)
    api.before = lambda _: None
    assert rollout(api).resume().outcome is Outcome.PROMOTED


def test_a_rollback_finishes_where_the_controller_never_saw_the_canary(api: FakeApi) -> None:
    api.before = lambda number: interrupt_at_write(api, 2)
    api.down = True
    with pytest.raises(KeyboardInterrupt):
        run_interrupted(api)
    api.before = lambda _: None
    assert model(api) == NEW or api.spec.get("canary")
    finished = rollout(api, on_progress=lambda snapshot: come_back(api, snapshot)).rollback()
    assert finished.outcome is Outcome.ROLLED_BACK
    assert model(api) == OLD


def come_back(api: FakeApi, snapshot: Snapshot) -> None:
    """The controller was away until the old spec was there again."""
    assert snapshot.record is not None
    if snapshot.record.phase in (Phase.RESTORING, Phase.ROLLED_BACK):
        api.down = False


def interrupt_at_write(api: FakeApi, number: int) -> None:
    if len(api.writes) >= number and not api.interrupted:
        api.interrupted = True
        os.kill(os.getpid(), signal.SIGINT)


def run_interrupted(api: FakeApi) -> None:
    """Run `start` with Python's own handler of SIGINT, whatever pytest has."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        rollout(api).start(NEW, PLAN)
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_interrupt_during_a_move_that_another_command_supersedes_is_not_swallowed(api: FakeApi) -> None:
    """At the dry run of the first step somebody pauses, and somebody presses Ctrl-C."""
    done = False

    def before(_: int) -> None:
        nonlocal done
        record = api.service["status"].get("annotations", {}).get(RECORD, "")
        if not done and api.is_dry_run and '"percent":0' in record:
            done = True
            Rollout(NAME, Cluster(api.client(calm=True), NAMESPACE), judges=[]).pause("wait")
            os.kill(os.getpid(), signal.SIGINT)

    api.before = before
    with pytest.raises(KeyboardInterrupt):
        run_interrupted(api)
    assert done
    assert phase(api) is Phase.PROGRESSING


def test_a_promotion_that_somebody_edited_is_not_called_rolled_back() -> None:
    """In Standard mode the new model serves everything by then."""
    with serving(FakeApi("Standard")) as api:
        pause_at(api, 100)
        api.down = True
        plan = {"predictor": {"timeout": 77}}
        rollout(api).step()
        assert phase(api) is Phase.PROMOTING
        api.edit(plan)
        with pytest.raises(NotPossibleNow, match=r"taken the stable version's place.*--leave"):
            rollout(api).rollback()
        assert model(api) == NEW
        assert rollout(api).rollback(leave=True).outcome is Outcome.LEFT


def test_a_rollback_that_somebody_undid_is_not_claimed_again(api: FakeApi) -> None:
    pause_at(api, 25)
    assert rollout(api).rollback().outcome is Outcome.ROLLED_BACK
    assert rollout(api).rollback().outcome is Outcome.ROLLED_BACK
    api.edit({"predictor": {"model": {"storageUri": NEW}}})
    with pytest.raises(NoRollout, match=r"changed chat since: .* has the model hf://owner/new"):
        rollout(api).rollback()


def test_an_end_is_read_back_before_it_is_claimed(api: FakeApi) -> None:
    """Somebody sets another model in the moment in which the end is written down."""

    def before(_: int) -> None:
        record = api.service["status"].get("annotations", {}).get(RECORD, "")
        if '"phase":"rolled back"' in record and model(api) == OLD:
            api.edit({"predictor": {"model": {"storageUri": "hf://owner/third"}}})

    pause_at(api, 25)
    api.before = before
    with pytest.raises(NotPossibleNow, match=r"recorded as rolled back, but .* hf://owner/third"):
        rollout(api).rollback()


def test_a_canary_that_comes_and_goes_is_rolled_back() -> None:
    """Ready for a while, then not, again and again: no flap starts the clocks anew."""
    with serving(FakeApi("Standard")) as api:
        comes_and_goes(api)


def comes_and_goes(api: FakeApi) -> None:
    pause_at(api, 25)
    reads = 0
    of_kserve = api.kserve._loaded

    def loaded(workload: Any) -> bool:
        return of_kserve(workload) and (NEW not in workload.template or reads % 20 < 12)

    def before(_: int) -> None:
        nonlocal reads
        reads += 1

    api.kserve._loaded = loaded  # type: ignore[method-assign]
    api.before = before
    patient = Rollout(NAME, Cluster(api.client(), NAMESPACE), judges=[Waits()], poll_s=0.002, hold_s=0.02)
    result = patient.resume()
    assert result.outcome is Outcome.ROLLED_BACK
    assert "and then not for" in result.reasons[0]


class Waits:
    """Never sure."""

    def judge(self, stable: Revision, canary: Revision, elapsed_s: float) -> Verdict:
        return Verdict(Decision.PROCEED if canary.traffic_percent == 0 else Decision.WAIT, ("too early",))


def test_a_standard_canary_is_sized_by_its_share_of_what_serves() -> None:
    with serving(FakeApi("Standard")) as api:
        api.edit({"predictor": {"minReplicas": 4}})
        api.replicas = {"chat-predictor": 10, "chat-r1-predictor": 0}
        result = rollout(api).start(NEW, PLAN)
        assert result.outcome is Outcome.PAUSED
        assert result.percent == 25
        assert api.spec["canary"][0]["predictor"]["minReplicas"] == 3
        assert "at 50% the canary needs 5 of the 10 replicas" in result.reasons[0]
        assert "minReplicas, 4" in result.reasons[0]
        with pytest.raises(NotPossibleNow, match="minReplicas, 4"):
            rollout(api).step()


def test_a_pods_own_namespace_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token, namespace, certificate = (tmp_path / name for name in ("token", "namespace", "ca.crt"))
    token.write_text("a-token")
    certificate.write_text("-")
    namespace.write_text("models\n")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "1")
    loader = "kubernetes.config.incluster_config"
    monkeypatch.setattr(f"{loader}.SERVICE_TOKEN_FILENAME", str(token))
    monkeypatch.setattr(f"{loader}.SERVICE_CERT_FILENAME", str(certificate))
    monkeypatch.setattr(cluster_module, "_NAMESPACE_FILE", namespace)
    monkeypatch.setattr("kubernetes.client.ApiClient.__init__", lambda *_, **__: None)
    monkeypatch.setattr("kubernetes.client.ApiClient.__del__", lambda _: None, raising=False)
    assert Cluster.connect().namespace == "models"
    assert Cluster.connect("other").namespace == "other"
