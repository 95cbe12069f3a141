"""From looks at pods to what happened between them."""

from __future__ import annotations

import math

from rollout.analysis.counters import Counters, Latency, PodLook, Sample, read_look
from rollout.analysis.histogram import Histogram
from rollout.analysis.odometer import Odometer

WAITS = {0.1: 1.0, 1.0: 3.0, math.inf: 4.0}


def look(good: float, *, in_hand: float = 0.0, started: float = 1.0, restarts: int | None = None) -> PodLook:
    counters = Counters(good, waited=Histogram.of({1.0: good, math.inf: good}))
    return PodLook(counters, in_hand, 0.0, started, restarts)


def test_the_first_look_is_zero() -> None:
    odometer = Odometer()
    assert odometer.advance({"a": look(500)}, 0.0).counters == Counters()
    assert odometer.advance({"a": look(503)}, 5.0).counters.good == 3
    assert odometer.advance({"a": look(503), "b": look(9)}, 10.0).counters.good == 0


def test_a_look_that_failed_is_made_up_for() -> None:
    odometer = Odometer()
    odometer.advance({"a": look(5)}, 0.0)
    odometer.advance({}, 5.0)
    found = odometer.advance({"a": look(9)}, 10.0).counters
    assert (found.good, found.pod_seconds) == (4, 10)


def test_a_new_process_counts_from_zero_and_the_old_ones_requests_are_lost() -> None:
    """Also where it has counted more by now than the old one had."""
    for now in (2, 50):
        odometer = Odometer()
        odometer.advance({"a": look(10, in_hand=3)}, 0.0)
        found = odometer.advance({"a": look(now, started=9.0)}, 5.0).counters
        assert (found.good, found.bad, found.deaths) == (now, 3, 1)


def test_a_process_that_does_not_tell_its_start_is_known_by_counters_that_fall() -> None:
    odometer = Odometer()
    odometer.advance({"a": look(10, in_hand=1, started=0.0)}, 0.0)
    found = odometer.advance({"a": look(4, started=0.0)}, 5.0).counters
    assert (found.good, found.bad, found.deaths) == (4, 1, 1)


def test_another_container_of_the_pod_that_restarts_takes_no_requests_along() -> None:
    odometer = Odometer()
    odometer.advance({"a": look(10, in_hand=3, restarts=0)}, 0.0)
    found = odometer.advance({"a": look(12, restarts=1)}, 5.0).counters
    assert (found.good, found.bad, found.deaths) == (2, 0, 1)


def test_deaths_between_two_looks_are_all_counted() -> None:
    odometer = Odometer()
    odometer.advance({"a": look(10, in_hand=2, restarts=0)}, 0.0)
    down = PodLook(None, restarts=1, ready=False)
    assert odometer.advance({"a": down}, 5.0).counters == Counters(bad=2, deaths=1)
    found = odometer.advance({"a": look(3, started=9.0, restarts=2)}, 10.0).counters
    assert (found.good, found.bad, found.deaths) == (3, 0, 1)


def test_ready_pods_that_stay_silent_are_named() -> None:
    odometer = Odometer()
    mute, starting = PodLook(None), PodLook(None, ready=False)
    pods = {"a": look(1), "b": mute, "c": starting}
    assert odometer.advance(pods, 0.0).silent == ()
    assert odometer.advance(pods, 61.0).silent == ("b",)


def samples(prefix: str = "", **labels: str) -> list[Sample]:
    """What a predictor tells, as one job scrapes it."""
    own = {"model_name": "m", **labels}
    name = f"kserve_llamacpp_{prefix}"
    waits = [
        Sample(f"{name}time_to_first_token_seconds_bucket", own | {"le": str(b)}, n) for b, n in WAITS.items()
    ]
    ended = Sample(f"{name}request_success_total", own | {"finished_reason": "stop"}, 4.0)
    return [*waits, ended, Sample("process_start_time_seconds", dict(labels), 7.0)]


def test_series_that_two_jobs_scrape_count_once() -> None:
    once = read_look(samples(job="pods", instance="1:8080"))
    twice = read_look(
        [*samples(job="pods", instance="1:8080"), *samples(job="monitor", instance="1:8080", endpoint="8080")]
    )
    assert twice == once
    assert once.counters is not None
    assert once.counters.good == 4
    assert once.counters.latency(Latency.FIRST_TOKEN).count == 4


def test_the_start_of_another_container_is_not_the_predictors() -> None:
    proxy = Sample("process_start_time_seconds", {"job": "pods", "container": "queue-proxy"}, 99.0)
    assert read_look([*samples(job="pods", container="kserve-container"), proxy]).started == 7


def test_several_models_of_a_pod_are_added_up() -> None:
    other = [Sample(s.name, {**s.labels, "model_name": "n"}, s.value) for s in samples()]
    found = read_look([*samples(), *other[:-1]]).counters
    assert found is not None
    assert found.good == 8
