"""The judge of traffic, on metrics that the predictor's own counters make, read over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from metrics_server import Pod, serving
from pod_api import NAMESPACE, PodApi, serving_pods

from rollout.analysis.judge import TrafficJudge
from rollout.analysis.limits import Limits, parse_limit
from rollout.analysis.sources import PodSource
from rollout.pods import Pods
from rollout.verdict import Decision, Revision, Verdict

STABLE = Revision("smol-1", "smol", NAMESPACE, 75, "rev=1", "smol")
CANARY = Revision("smol-2", "smol", NAMESPACE, 25, "rev=2", "smol")


class Cluster:
    """One pod of each revision, and a judge."""

    def __init__(self, api: PodApi, limits: Limits) -> None:
        self.api = api
        self.stable = Pod("smol-1-abc")
        self.canary = Pod("smol-2-def")
        self.judge = TrafficJudge(PodSource(Pods(api.client())), limits)

    def connect(self) -> None:
        self.api.pods = {
            "rev=1": {self.stable.name: self.stable.url},
            "rev=2": {self.canary.name: self.canary.url},
        }

    def verdict(self, percent: int = 25) -> Verdict:
        stable = replace(STABLE, traffic_percent=100 - percent)
        return self.judge.judge(stable, replace(CANARY, traffic_percent=percent), 10.0)

    def until_decided(self, polls: int = 200) -> tuple[Verdict, int]:
        """Both serve five requests between two looks; counts the looks."""
        self.verdict()
        for poll in range(1, polls):
            self.stable.serve(5)
            self.serve_canary(5)
            verdict = self.verdict()
            if verdict.decision is not Decision.WAIT:
                return verdict, poll
        return verdict, polls

    def serve_canary(self, count: int) -> None:
        self.canary.serve(count)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with serving_pods(PodApi()) as api:
        cluster = Cluster(api, Limits())
        with serving(cluster.stable, cluster.canary):
            cluster.connect()
            yield cluster


def test_a_good_canary_passes_but_not_on_ten_requests(cluster: Cluster) -> None:
    verdict, polls = cluster.until_decided()
    assert verdict.decision is Decision.PROCEED
    assert 10 < polls < 60
    figures = {figure.name: figure for figure in verdict.figures}
    assert figures["error rate"].canary == 0
    assert figures["p95 time to first token"].samples == pytest.approx(5 * polls, abs=30)


def test_an_erroring_canary_is_rolled_back_with_its_figures(cluster: Cluster) -> None:
    def serve(count: int) -> None:
        cluster.canary.serve(count - 1)
        cluster.canary.refuse(1)

    cluster.serve_canary = serve  # type: ignore[method-assign]
    verdict, polls = cluster.until_decided()
    assert verdict.decision is Decision.ROLL_BACK
    assert polls < 30
    (reason,) = verdict.reasons
    assert reason.startswith("error rate: 20.0%, and 0.0% on the stable revision; the limit is stable + 1%.")
    assert f"{polls - 1} of the canary's {5 * (polls - 1)} requests" in reason


def test_failures_of_the_engine_count_as_errors(cluster: Cluster) -> None:
    cluster.serve_canary = cluster.canary.fail  # type: ignore[method-assign]
    verdict, _ = cluster.until_decided()
    assert verdict.decision is Decision.ROLL_BACK
    assert verdict.reasons[0].startswith("error rate: 100.0%")


@pytest.mark.parametrize(
    ("slow", "figure"),
    [
        ({"first_token": 1.5}, "p95 time to first token"),
        ({"gap": 0.2}, "p95 inter-token latency"),
        ({"first_token": 3.0, "queue": 2.9}, "p95 time in the queue"),
    ],
)
def test_a_slow_canary_is_rolled_back(cluster: Cluster, slow: dict[str, float], figure: str) -> None:
    cluster.serve_canary = lambda count: cluster.canary.serve(count, **slow)  # type: ignore
    verdict, polls = cluster.until_decided()
    assert verdict.decision is Decision.ROLL_BACK
    assert polls < 30
    assert any(reason.startswith(figure) for reason in verdict.reasons)


def test_one_slow_request_in_fifty_is_no_ground(cluster: Cluster) -> None:
    served = 0

    def serve(count: int) -> None:
        nonlocal served
        for _ in range(count):
            served += 1
            cluster.canary.serve(1, first_token=5.0 if served % 50 == 0 else 0.2)

    cluster.serve_canary = serve  # type: ignore[method-assign]
    verdict, _ = cluster.until_decided()
    assert verdict.decision is Decision.PROCEED


def test_what_slows_both_down_counts_for_neither(cluster: Cluster) -> None:
    cluster.verdict()
    cluster.stable.serve(1000)
    cluster.canary.serve(30)
    for poll in range(20):
        first_token = 0.2 if poll < 3 else 4.0
        cluster.stable.serve(5, first_token=first_token)
        cluster.canary.serve(5, first_token=first_token)
        assert cluster.verdict().decision is not Decision.ROLL_BACK


def test_requests_from_before_the_step_do_not_count(cluster: Cluster) -> None:
    cluster.canary.refuse(500)
    cluster.verdict(25)
    cluster.stable.serve(100)
    cluster.canary.serve(100)
    verdict = cluster.verdict(25)
    figure = next(figure for figure in verdict.figures if figure.name == "error rate")
    assert (figure.canary, figure.stable) == (0, 0)
    assert verdict.decision is Decision.WAIT


def test_a_restarted_pod_counts_from_zero(cluster: Cluster) -> None:
    cluster.canary.serve(500)
    cluster.verdict()
    cluster.canary.restart()
    cluster.canary.serve(7)
    cluster.canary.fail(3)
    verdict = cluster.verdict()
    figure = next(figure for figure in verdict.figures if figure.name == "error rate")
    assert figure.canary == pytest.approx(30)


def test_at_100_percent_the_canary_is_held_to_the_step_before(cluster: Cluster) -> None:
    verdict, _ = cluster.until_decided()
    assert verdict.decision is Decision.PROCEED
    del cluster.api.pods["rev=1"]
    cluster.verdict(100)
    for _ in range(100):
        cluster.canary.serve(5, first_token=1.5)
        verdict = cluster.verdict(100)
        if verdict.decision is not Decision.WAIT:
            break
    assert verdict.decision is Decision.ROLL_BACK
    assert "p95 time to first token" in verdict.reasons[0]
    assert "ms on the stable revision" in verdict.reasons[0]


def test_at_100_percent_without_a_step_before_only_absolute_limits_are_tested(cluster: Cluster) -> None:
    cluster.verdict(100)
    assert cluster.verdict(100).decision is Decision.PROCEED
    cluster.judge = TrafficJudge(PodSource(Pods(cluster.api.client())), Limits(error_rate=parse_limit("2%")))
    cluster.verdict(100)
    for _ in range(40):
        cluster.canary.fail(3)
        verdict = cluster.verdict(100)
    assert verdict.decision is Decision.ROLL_BACK


def test_no_traffic_no_judgement(cluster: Cluster) -> None:
    cluster.api.pods = {}
    assert cluster.verdict(0).decision is Decision.PROCEED


@pytest.mark.parametrize("missing", ["rev=1", "rev=2"])
def test_a_revision_that_does_not_answer_is_waited_for(cluster: Cluster, missing: str) -> None:
    cluster.verdict()
    cluster.api.pods[missing] = {"gone": "http://127.0.0.1:9"}
    verdict = cluster.verdict()
    assert verdict.decision is Decision.WAIT
    assert "gone" in verdict.reasons[0]
    cluster.api.not_ready = {"gone"}
    assert "has no ready pod" in cluster.verdict().reasons[0]


def test_something_else_than_metrics_is_said_to_be_that(cluster: Cluster) -> None:
    cluster.api.pods["rev=2"] = {"page": f"http://127.0.0.1:{cluster.api.port}"}
    verdict = cluster.verdict()
    assert verdict.decision is Decision.WAIT
    assert "status 401" in verdict.reasons[0]
