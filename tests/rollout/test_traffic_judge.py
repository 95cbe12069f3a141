"""The judge of traffic, on metrics that the predictor's own counters make, read over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from metrics_server import Pod, serving
from pod_api import NAMESPACE, PodApi, serving_pods

from rollout.analysis.counters import PodLook, Sample, read_look
from rollout.analysis.judge import TrafficJudge
from rollout.analysis.limits import Kind, Limits, parse_limit
from rollout.analysis.sources import PodSource, Source
from rollout.plan import Plan
from rollout.pods import Pods
from rollout.verdict import Decision, Revision, Verdict

STABLE = Revision("smol-1", "smol", NAMESPACE, 75, "rev=1", "smol")
CANARY = Revision("smol-2", "smol", NAMESPACE, 25, "rev=2", "smol")


class Registries:
    """Reads pods' counters without HTTP, which is many times faster; some tests below go the whole way."""

    def __init__(self, pods: dict[str, list[Pod]]) -> None:
        self.pods = pods

    def read(self, revision: Revision) -> dict[str, PodLook]:
        return {
            pod.name: read_look(
                Sample(sample.name, sample.labels, sample.value)
                for family in pod.registry.collect()
                for sample in family.samples
            )
            for pod in self.pods.get(revision.pod_selector, [])
        }


class Cluster:
    """One pod of each revision, and a judge."""

    def __init__(self, limits: Limits, api: PodApi | None = None) -> None:
        self.stable = Pod("smol-1-abc")
        self.canary = Pod("smol-2-def")
        self.pods = {"rev=1": [self.stable], "rev=2": [self.canary]}
        self.now, self.look_s = 0.0, 5.0
        self.source: Source = PodSource(Pods(api.client())) if api else Registries(self.pods)
        self.judge = self.new_judge(limits)

    def new_judge(self, limits: Limits, *steps: int) -> TrafficJudge:
        """A judge for whom five seconds pass between two looks; its rollout ends with the step at 100%."""
        plan = Plan(steps or (25, 100), interval_s=0.0)
        return TrafficJudge(self.source, limits, plan, lambda: self.now)

    def verdict(self, percent: int = 25) -> Verdict:
        stable = replace(STABLE, traffic_percent=100 - percent)
        self.now += self.look_s
        return self.judge.judge(stable, replace(CANARY, traffic_percent=percent), 10.0)

    def until_decided(self, polls: int = 200) -> tuple[Verdict, int]:
        """Both serve five requests between two looks; counts the looks."""
        self.verdict()
        for poll in range(1, polls):
            self.serve_stable(5)
            self.serve_canary(5)
            verdict = self.verdict()
            if verdict.decision is not Decision.WAIT:
                return verdict, poll
        return verdict, polls

    def serve_stable(self, count: int) -> None:
        self.stable.serve(count)

    def serve_canary(self, count: int) -> None:
        self.canary.serve(count)


@pytest.fixture
def cluster() -> Cluster:
    return Cluster(Limits())


@pytest.fixture
def api() -> Iterator[PodApi]:
    with serving_pods(PodApi()) as api:
        yield api


@pytest.fixture
def served(api: PodApi) -> Iterator[Cluster]:
    """The same, over HTTP."""
    cluster = Cluster(Limits(), api)
    with serving(cluster.stable, cluster.canary):
        api.pods = {
            "rev=1": {cluster.stable.name: cluster.stable.url},
            "rev=2": {cluster.canary.name: cluster.canary.url},
        }
        yield cluster


def test_the_pods_own_metrics_are_read_over_http(served: Cluster) -> None:
    served.serve_canary = served.canary.fail  # type: ignore[method-assign]
    verdict, _ = served.until_decided(30)
    assert verdict.decision is Decision.ROLL_BACK
    assert verdict.reasons[0].startswith("error rate: 100.0%")


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
    assert f"{polls} of the canary's {5 * polls} requests" in reason


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


def test_requests_that_clients_gave_up_without_a_token_are_errors(cluster: Cluster) -> None:
    """7 of 10 hang until their clients give up, which ends no request in an error."""

    def serve(count: int) -> None:
        cluster.canary.serve(count - 3)
        cluster.canary.abandon(3)

    cluster.serve_canary = serve  # type: ignore[method-assign]
    verdict, polls = cluster.until_decided()
    assert verdict.decision is Decision.ROLL_BACK
    assert polls < 20
    assert verdict.reasons[0].startswith("error rate: 60.0%")


def test_requests_that_still_wait_are_slow_ones(cluster: Cluster) -> None:
    """30% take 200 s to the first token, and the step is over before."""
    waiting: list[float] = []

    def serve(count: int) -> None:
        cluster.canary.serve(count - 2)
        waiting[:] = [wait + 5.0 for wait in waiting] + [1.0, 1.0]
        cluster.canary.unanswered = tuple(waiting)

    cluster.serve_canary = serve  # type: ignore[method-assign]
    verdict, polls = cluster.until_decided()
    assert verdict.decision is Decision.ROLL_BACK
    assert polls < 25
    assert any(reason.startswith("p95 time to first token") for reason in verdict.reasons)


def test_clients_that_leave_while_the_answer_flows_count_for_nothing(cluster: Cluster) -> None:
    def serve(count: int) -> None:
        cluster.canary.serve(count - 2)
        cluster.canary.abandon(2, first_token=0.2)

    cluster.serve_canary = serve  # type: ignore[method-assign]
    verdict, _ = cluster.until_decided()
    assert verdict.decision is Decision.PROCEED


def test_a_process_that_dies_takes_its_requests_along(cluster: Cluster) -> None:
    """Every second look it has begun anew, with fewer requests counted or more."""
    dies = False

    def serve(count: int) -> None:
        nonlocal dies
        dies = not dies
        if dies:
            cluster.canary.restart()
        cluster.canary.serve(count)
        cluster.canary.running = 4

    cluster.serve_canary = serve  # type: ignore[method-assign]
    verdict, polls = cluster.until_decided()
    assert verdict.decision is Decision.ROLL_BACK
    assert polls < 30
    assert any(reason.startswith("error rate") for reason in verdict.reasons)


def test_deaths_are_found_in_time(cluster: Cluster) -> None:
    """Once in five minutes, with nothing in hand."""
    looks = 0

    def serve(count: int) -> None:
        nonlocal looks
        looks += 1
        if looks % 15 == 0:
            cluster.canary.restart()
        cluster.canary.serve(count)

    cluster.serve_canary = serve  # type: ignore[method-assign]
    cluster.judge = cluster.new_judge(Limits(), 25)
    cluster.look_s = 20.0
    verdict, _ = cluster.until_decided(200)
    assert verdict.decision is Decision.ROLL_BACK
    assert verdict.reasons[0].startswith("deaths of processes")


def test_deaths_are_read_from_the_cluster_too(served: Cluster, api: PodApi) -> None:
    """A pod that is down at every look has no metrics then, and its requests are gone."""
    served.verdict()
    served.stable.serve(40)
    served.canary.serve(40)
    served.canary.running = 3
    served.verdict()
    api.pods["rev=2"]["smol-2-xyz"] = served.canary.url
    api.not_ready = {served.canary.name}
    api.restarts[served.canary.name] = 1
    figures = {figure.name: figure for figure in served.verdict().figures}
    assert figures["error rate"].canary == pytest.approx(100 * 3 / 43)
    assert figures["deaths of processes"].canary == 720  # one in five seconds


def test_before_promotion_processes_have_to_have_lived_for_a_while(cluster: Cluster) -> None:
    cluster.judge = cluster.new_judge(Limits(), 25)
    cluster.look_s = 20.0
    verdict, polls = cluster.until_decided(150)
    assert verdict.decision is Decision.PROCEED
    assert 3 * 15 <= polls <= 3 * 25


@pytest.mark.parametrize("kind", ["embeddings", "one token"])
def test_what_neither_revision_has_is_not_waited_for(cluster: Cluster, kind: str) -> None:
    def serve(pod: Pod, count: int) -> None:
        if kind == "embeddings":
            pod.embed(count)
        else:
            pod.serve(count, tokens=1)

    cluster.serve_stable = lambda count: serve(cluster.stable, count)  # type: ignore[method-assign]
    cluster.serve_canary = lambda count: serve(cluster.canary, count)  # type: ignore[method-assign]
    verdict, _ = cluster.until_decided()
    assert verdict.decision is Decision.PROCEED
    assert verdict.reasons == (
        "not tested, since there is none, or nothing to compare with: p95 inter-token latency",
    )


def test_what_only_one_revision_has_is_waited_for(cluster: Cluster) -> None:
    cluster.serve_stable = lambda count: cluster.stable.serve(count, tokens=1)  # type: ignore[method-assign]
    verdict, _ = cluster.until_decided(60)
    assert verdict.decision is Decision.WAIT
    assert verdict.reasons[0].startswith("p95 inter-token latency")


def test_a_bad_canary_does_not_pass_because_many_requests_have_come(cluster: Cluster) -> None:
    """5% errors at 90% of the traffic, where the stable revision gets few requests."""
    cluster.verdict(90)
    for sent in range(300):
        cluster.stable.serve(1)
        cluster.canary.serve(9)
        if sent % 2:
            cluster.canary.fail(1)
        verdict = cluster.verdict(90)
        if verdict.decision is not Decision.WAIT:
            break
    assert verdict.decision is not Decision.PROCEED


def test_pods_with_more_to_do_are_not_called_slow(cluster: Cluster) -> None:
    """Half the traffic each, but the canary's one pod gets four times as much as one of the stable's four."""
    cluster.pods["rev=1"] += [Pod(f"smol-1-{number}") for number in range(3)]
    cluster.verdict()
    for _ in range(60):
        for pod in cluster.pods["rev=1"]:
            pod.serve(2, first_token=0.2)
        cluster.canary.serve(8, first_token=1.0)
        verdict = cluster.verdict()
        assert verdict.decision is Decision.WAIT
    assert "its pods get 4.0 times as many each" in "; ".join(verdict.reasons)


def test_a_pod_that_hides_its_metrics_is_waited_for(served: Cluster, api: PodApi) -> None:
    api.pods["rev=2"]["smol-2-mute"] = "http://127.0.0.1:9"
    for _ in range(14):
        verdict = served.verdict()
    assert verdict.decision is Decision.WAIT
    served.stable.serve(600)
    served.canary.serve(600)
    assert not served.verdict().figures[0].canary


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
    del cluster.pods["rev=1"]
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
    off = replace(Limits(), deaths=None)
    cluster.judge = cluster.new_judge(off, 100)
    cluster.verdict(100)
    verdict = cluster.verdict(100)
    assert verdict.decision is Decision.PROCEED
    assert verdict.reasons[0].startswith(
        "not tested, since there is none, or nothing to compare with: error rate"
    )
    cluster.judge = cluster.new_judge(replace(off, error_rate=parse_limit("2%", Kind.SHARE)), 100)
    cluster.verdict(100)
    for _ in range(40):
        cluster.canary.fail(3)
        verdict = cluster.verdict(100)
    assert verdict.decision is Decision.ROLL_BACK


def test_before_the_first_step_the_stable_revision_is_watched_for_as_long_as_a_step_lasts(
    cluster: Cluster,
) -> None:
    assert cluster.verdict(0).decision is Decision.PROCEED
    cluster.judge = TrafficJudge(cluster.source, Limits(), Plan(interval_s=60.0))
    assert "watched before" in cluster.verdict(0).reasons[0]


def test_metrics_that_cannot_be_had_show_before_the_canary_gets_traffic(served: Cluster, api: PodApi) -> None:
    api.pods = {}
    verdict = served.verdict(0)
    assert verdict.decision is Decision.WAIT
    assert "no ready pod" in verdict.reasons[0]


@pytest.mark.parametrize("missing", ["rev=1", "rev=2"])
def test_a_revision_that_does_not_answer_is_waited_for(served: Cluster, api: PodApi, missing: str) -> None:
    served.verdict()
    api.pods[missing] = {"gone": "http://127.0.0.1:9"}
    verdict = served.verdict()
    assert verdict.decision is Decision.WAIT
    assert "gone" in verdict.reasons[0]
    api.not_ready = {"gone"}
    assert "has no ready pod" in served.verdict().reasons[0]


def test_something_else_than_metrics_is_said_to_be_that(served: Cluster, api: PodApi) -> None:
    api.pods["rev=2"] = {"page": f"http://127.0.0.1:{api.port}"}
    verdict = served.verdict()
    assert verdict.decision is Decision.WAIT
    assert "status 401" in verdict.reasons[0]
