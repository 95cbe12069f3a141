"""The figures of two revisions from a real Prometheus server that scrapes their pods."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator

import httpx
import pytest
import yaml
from metrics_server import Pod, serving
from polling import wait_until

from rollout.analysis.counters import Latency, PodLook
from rollout.analysis.judge import TrafficJudge
from rollout.analysis.limits import Limits
from rollout.analysis.sources import PrometheusSource, SourceUnavailable
from rollout.verdict import Decision, Revision
from scripts.free_ports import free_port

STABLE = Revision("chat-predictor-00001", "chat", "models", 75, "", "smol")
CANARY = Revision("chat-predictor-00002", "chat", "models", 25, "", "smol")
# One of Knative's, one of a Deployment of the same name, one of a Deployment whose name begins the same.
STABLE_PODS = ("chat-predictor-00001-deployment-6d4cf56db6-x2x7k", "chat-predictor-00001-7d9c5b8f4d-abcde")
OTHER_POD = "chat-predictor-00001-other-7d9c5b8f4d-abcde"
CANARY_POD = "chat-predictor-00002-deployment-5f8d7b9c4-zz9zz"

pytestmark = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="Debian's prometheus is not installed"
)


@pytest.fixture(scope="module")
def pods() -> Iterator[dict[str, Pod]]:
    pods = {name: Pod(name) for name in (*STABLE_PODS, OTHER_POD, CANARY_POD)}
    with serving(*pods.values()):
        yield pods


@pytest.fixture(scope="module")
def url(pods: dict[str, Pod], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("prometheus")
    targets = [
        {"targets": [pod.url.removeprefix("http://")], "labels": {"pod": pod.name, "namespace": "models"}}
        for pod in pods.values()
    ]
    configuration = {
        "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms"},
        "scrape_configs": [
            {"job_name": "pods", "static_configs": targets},
            {"job_name": "podmonitor", "static_configs": targets[-1:]},
        ],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    port = free_port()
    command = [
        *("prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"),
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: is_ready(url), process=process, log=folder / "log")
        yield url
    finally:
        process.terminate()
        process.wait()


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/-/ready").status_code == 200
    except httpx.TransportError:
        return False


def good(look: PodLook) -> float:
    return look.counters.good if look.counters else 0.0


def bad(look: PodLook) -> float:
    return look.counters.bad if look.counters else 0.0


def seen(url: str, revision: Revision) -> PodLook:
    """The revision's one pod, once a scrape of it has come through."""
    wait_until(lambda: read(url, revision))
    found = {}
    while not found:
        found = read(url, revision)
    (look,) = found.values()
    return look


def read(url: str, revision: Revision) -> dict[str, PodLook]:
    try:
        return dict(PrometheusSource(url).read(revision))
    except SourceUnavailable:
        return {}


def test_each_revision_has_its_own_pods_and_figures(url: str, pods: dict[str, Pod]) -> None:
    pods[STABLE_PODS[0]].serve(3)
    pods[STABLE_PODS[1]].serve(2)
    pods[OTHER_POD].fail(7)
    pods[CANARY_POD].refuse(4)
    pods[CANARY_POD].serve(1, first_token=0.4, tokens=5)
    wait_until(lambda: sum(good(look) for look in read(url, STABLE).values()) == 5)
    wait_until(lambda: [(good(look), bad(look)) for look in read(url, CANARY).values()] == [(1, 4)])
    wait_until(lambda: sorted(read(url, STABLE)) == sorted(STABLE_PODS))
    look = seen(url, CANARY)
    canary = look.counters
    assert canary is not None
    assert canary.latency(Latency.INTER_TOKEN).count == 4
    assert canary.latency(Latency.FIRST_TOKEN).quantile(1) == 0.4
    assert canary.waited.count == 1
    assert look.started > 1e9


def test_a_pod_that_two_jobs_scrape_counts_once(url: str, pods: dict[str, Pod]) -> None:
    """The project ships both an annotation and a PodMonitor, which make two jobs of one pod."""
    before = seen(url, CANARY)
    pods[CANARY_POD].serve(6)
    pods[CANARY_POD].abandon(2)
    wait_until(lambda: good(seen(url, CANARY)) == good(before) + 6)
    wait_until(lambda: bad(seen(url, CANARY)) == bad(before) + 2)
    look = seen(url, CANARY)
    assert look.counters is not None
    assert before.counters is not None
    assert look.counters.waited.count == before.counters.waited.count + 8


def test_a_bad_canary_is_found_through_prometheus(url: str, pods: dict[str, Pod]) -> None:
    judge = TrafficJudge(PrometheusSource(url), Limits())
    wait_until(lambda: read(url, STABLE) and read(url, CANARY))
    judge.judge(STABLE, CANARY, 0.0)
    for _ in range(20):
        pods[STABLE_PODS[0]].serve(5)
        pods[CANARY_POD].fail(2)
        pods[CANARY_POD].serve(3)
        time.sleep(0.5)
        verdict = judge.judge(STABLE, CANARY, 0.0)
        if verdict.decision is not Decision.WAIT:
            break
    assert verdict.decision is Decision.ROLL_BACK
    assert verdict.reasons[0].startswith("error rate: 4")


def test_what_prometheus_does_not_know_is_waited_for(url: str) -> None:
    unknown = Revision("gone", "chat", "models", 25, "", "smol")
    with pytest.raises(SourceUnavailable, match="knows no metrics of gone"):
        PrometheusSource(url).read(unknown)
    with pytest.raises(SourceUnavailable, match="refuses the query"):
        PrometheusSource(url, selector='pod="').read(unknown)
    with pytest.raises(SourceUnavailable, match="doesn't answer"):
        PrometheusSource("http://127.0.0.1:9").read(unknown)
