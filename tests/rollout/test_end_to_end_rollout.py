"""Rollouts of real models: two predictor processes behind Envoy, on a real API server for custom resources.

KServe's controller and the core API are stand-ins (kserve_stand_in, cluster_front, pod_api). Envoy's weights
follow what the stand-in controller makes of the InferenceService, users send requests through Envoy, and the
judges read the predictors' own metrics and ask them the golden set.
"""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
from cluster_front import Seen
from golden_set import write_golden_set
from pod_api import PodApi
from rollout_bench import NAME, NEW, Bench
from server_process import Server, running_server
from weighted_proxy import WeightedProxy, running_proxy

from rollout import Outcome, Plan, Rollout
from rollout.judging import Judging
from rollout.result import Result, Snapshot

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

USERS = 4
PLAN = Plan((25, 50, 100), interval_s=30.0, ready_timeout_s=120.0, verdict_timeout_s=600.0)
# Wide, for two servers, Envoy and the users share a small machine with whatever else runs on it.
# Tokens a second apart are still far beyond them.
LIMITS = {
    "deaths": "off",
    "first_token": "2 * stable + 500ms",
    "inter_token": "2 * stable + 100ms",
    "queue": "2 * stable + 1s",
}
QUESTIONS = ("Name a colour.", "Name an animal.", "Name a city.", "Name a river.", "Name a fruit.")


class Users:
    """Ask one short question after the other, each as fast as answers come."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(i,)) for i in range(USERS)]
        self.statuses: list[int] = []

    def __enter__(self) -> Users:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, user: int) -> None:
        with httpx.Client(base_url=self._url, timeout=120) as client:
            for turn in range(1_000_000):
                if self._stopped.is_set():
                    return
                question = QUESTIONS[(user + turn) % len(QUESTIONS)]
                body = {
                    "model": NAME,
                    "messages": [{"role": "user", "content": question}],
                    "max_tokens": 8,
                    "temperature": 1,
                }
                status = client.post("/v1/chat/completions", json=body).status_code
                self.statuses.append(status)
                if status != 200:
                    time.sleep(0.1)


class Stage:
    """A service whose revisions are two real servers.

    Attributes:
        shares: the canary's traffic as Envoy was told it, in order.
    """

    def __init__(self, bench: Bench, mode: str, stable: Server, canary: Server, proxy: WeightedProxy) -> None:
        self.bench = bench
        self._label = "app=isvc." if mode == "Standard" else "serving.knative.dev/revision="
        self._servers = (stable, canary)
        self._proxy = proxy
        self.pods = PodApi(namespace=bench.namespace)
        self.shares: list[int] = [0]
        self.snapshots: list[Snapshot] = []
        bench.front.before = self._answer

    def _answer(self, seen: Seen) -> tuple[int, bytes] | None:
        if not seen.path.startswith(f"/api/v1/namespaces/{self.bench.namespace}/pods"):
            return None
        for workload in list(self.bench.world.workloads):
            server = self._servers[self._is_canary(workload)]
            self.pods.pods[f"{self._label}{workload}"] = {f"{workload}-7d9c5b8f4d-abcde": server.http_url}
        body = b"" if seen.body is None else json.dumps(seen.body).encode()
        return self.pods.answer(seen.method, seen.path, {}, body)

    def _is_canary(self, workload: str) -> bool:
        """By its model: a rollback in Knative mode makes the old one's spec a third revision."""
        found = self.bench.world.workloads.get(workload)
        return found is not None and NEW in found.template

    @contextmanager
    def followed(self) -> Iterator[None]:
        """Set Envoy's weights to what the controller decides, all the time."""
        stopped = threading.Event()

        def follow() -> None:
            while not stopped.wait(0.05):
                traffic = dict(self.bench.world.traffic)
                share = sum(percent for name, percent in traffic.items() if self._is_canary(name))
                if traffic and share != self.shares[-1]:
                    self._proxy.share(share)
                    self.shares.append(share)

        with beside(follow, stopped):
            yield

    def roll_out(self, judging: Judging) -> Result:
        """Start a rollout with users, and wait for its end."""
        rollout = Rollout(
            NAME, self.bench.cluster(), poll_s=0.5, hold_s=0.1, on_progress=self.snapshots.append
        )
        with self.followed(), Users(self._proxy.url) as users:
            started = time.monotonic()
            result = rollout.start(NEW, PLAN, judging)
        print(f"{result.outcome} after {time.monotonic() - started:.0f} s:", *result.reasons, sep="\n")
        assert users.statuses.count(200) > 20
        return result


@contextmanager
def stage(
    bench: Bench, mode: str, model: Path, canary: Path, folder: Path, *options: str
) -> Iterator[tuple[Stage, Server]]:
    """Both servers and Envoy, with a service in the cluster; `options` are the canary's."""
    common = ("--threads", "1", "--max-sequences", "4")
    bench.create(mode)
    with ExitStack() as stack:
        servers = [
            stack.enter_context(running_server(file, folder / f"{name}.log", *common, *more, name=NAME))
            for name, file, more in (("stable", model, ()), ("canary", canary, options))
        ]
        proxy = stack.enter_context(running_proxy(servers[0].http_url, servers[1].http_url, folder))
        yield Stage(bench, mode, servers[0], servers[1], proxy), servers[1]


@pytest.fixture
def golden(tmp_path: Path) -> str:
    return str(write_golden_set(tmp_path / "golden.jsonl"))


def test_a_good_canary_goes_to_100_percent_by_itself(
    bench: Bench, mode: str, model_path: Path, golden: str, tmp_path: Path
) -> None:
    judging = Judging(golden=golden, reports=str(tmp_path / "reports"), **LIMITS)
    with stage(bench, mode, model_path, model_path, tmp_path) as (on, _):
        result = on.roll_out(judging)
    assert result.outcome is Outcome.PROMOTED, result.reasons
    assert on.shares == [0, 25, 50, 100]
    assert bench.spec()["predictor"]["model"]["storageUri"] == NEW
    assert len(list((tmp_path / "reports").glob("*.html"))) == 3


def test_a_canary_that_answers_differently_gets_no_traffic(
    bench: Bench, mode: str, model_path: Path, worse_model_path: Path, golden: str, tmp_path: Path
) -> None:
    judging = Judging(golden=golden, reports=str(tmp_path / "reports"), **LIMITS)
    with stage(bench, mode, model_path, worse_model_path, tmp_path) as (on, _):
        result = on.roll_out(judging)
    assert result.outcome is Outcome.ROLLED_BACK
    assert any("nats per token less likely than its own" in reason for reason in result.reasons)
    assert on.shares == [0]
    (report,) = (tmp_path / "reports").glob("*.html")
    assert "Roll back" in report.read_text()


def test_an_erroring_canary_is_rolled_back_at_the_first_step(
    bench: Bench, mode: str, model_path: Path, tmp_path: Path
) -> None:
    narrow = ("--max-sequences", "1", "--max-queue", "0")
    with stage(bench, mode, model_path, model_path, tmp_path, *narrow) as (on, _):
        result = on.roll_out(Judging(**LIMITS))
    assert result.outcome is Outcome.ROLLED_BACK
    assert any(reason.startswith("error rate: ") for reason in result.reasons), result.reasons
    assert on.shares == [0, 25, 0]
    assert "canary" not in bench.spec()


def test_a_slow_canary_is_rolled_back_at_the_first_step(
    bench: Bench, mode: str, model_path: Path, tmp_path: Path
) -> None:
    with stage(bench, mode, model_path, model_path, tmp_path) as (on, canary), halting(canary):
        result = on.roll_out(Judging(**LIMITS))
    assert result.outcome is Outcome.ROLLED_BACK
    assert any(reason.startswith("p95 ") for reason in result.reasons), result.reasons
    assert on.shares == [0, 25, 0]


@contextmanager
def beside(work: Callable[[], None], stopped: threading.Event) -> Iterator[None]:
    """Run `work` in a thread, which ends when `stopped` is set."""
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


@contextmanager
def halting(server: Server) -> Iterator[None]:
    """Let a process run for 50 ms in a second, as on a machine that is far too small.

    Long runs and long halts would show less: what waits at a halted process is not in its own metrics.
    """
    stopped = threading.Event()

    def halt() -> None:
        while not stopped.wait(0.05):
            server.process.send_signal(signal.SIGSTOP)
            stopped.wait(1.0)
            server.process.send_signal(signal.SIGCONT)

    with beside(halt, stopped):
        yield
