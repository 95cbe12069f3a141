"""What docs/rollouts.md says of the judge's errors, on rollouts of a modelled service.

The short version notices a judge that has lost its mind; rates as small as those that are promised show in
the full one only.
"""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from queueing import MEAN_SERVICE_S, Behaviour, Clients, Looks, arrivals, bursty, serve, steady
from scenarios import BAD_ONES, GOOD_ONES, Scenario
from simulated_rollout import GOOD, Service, rollouts, traffic

from rollout.analysis.counters import Latency
from rollout.result import Outcome

FULL = 200


def outcomes(scenario: Scenario, runs: int, seed: int = 1) -> Counter[Outcome]:
    return Counter(ended.outcome for ended in rollouts(scenario.service, scenario.canary, runs, seed))


def at_most(share: float, runs: int) -> float:
    """Three standard deviations above what is promised."""
    return share * runs + 3 * math.sqrt(runs * share * (1 - share))


def named(part: str) -> Scenario:
    return next(one for one in GOOD_ONES + BAD_ONES if part in one.name)


def test_good_canaries_are_promoted() -> None:
    found = outcomes(named("good, load 0.66"), 5)
    assert found[Outcome.ROLLED_BACK] == 0
    assert found[Outcome.PROMOTED] >= 3


@pytest.mark.parametrize(
    ("name", "least"), [("errors, load 0.66", 2), ("as long, load 0.66", 0), ("hang", 4), ("200 s", 4)]
)
def test_bad_canaries_are_not(name: str, least: int) -> None:
    found = outcomes(named(name), 4)
    assert found[Outcome.PROMOTED] == 0
    assert found[Outcome.ROLLED_BACK] >= least


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("scenario", GOOD_ONES, ids=lambda one: one.name)
def test_good_canaries_are_rolled_back_in_one_of_a_hundred_rollouts_at_most(scenario: Scenario) -> None:
    assert outcomes(scenario, FULL)[Outcome.ROLLED_BACK] <= at_most(0.01, FULL)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("scenario", BAD_ONES, ids=lambda one: one.name)
def test_bad_canaries_pass_in_one_of_twenty_rollouts_at_most(scenario: Scenario) -> None:
    assert outcomes(scenario, FULL)[Outcome.PROMOTED] <= at_most(0.05, FULL)


def test_the_model_is_a_queue() -> None:
    """By Little's law and the load: the model's own figures fit together."""
    random = np.random.default_rng(3)
    service = Service(load=0.6)
    per_s = service.per_s / service.replicas
    end = 20_000.0
    arrived = arrivals(random, [steady(random, end)], service.replicas, per_s, end)
    served = serve(random, arrived, service.places, GOOD, Clients(patience_s=1e6))
    came = np.isfinite(arrived)
    assert came.sum() == pytest.approx(per_s * end * service.replicas, rel=0.02)
    busy = (served.ended[came] - served.admitted[came]).sum() / (end * service.replicas * service.places)
    assert busy == pytest.approx(0.6, rel=0.05)
    assert (served.admitted[came] >= arrived[came]).all()
    assert (served.admitted[came] > arrived[came]).any()


def test_the_models_counters_are_those_of_its_requests() -> None:
    """Each request is in the wait histogram once from its arrival on, and no count falls without a crash."""
    random = np.random.default_rng(4)
    end = 600.0
    arrived = arrivals(random, [bursty(random, end)], 2, 2.0, end)
    served = serve(random, arrived, 4, Behaviour(hung=0.1, errors=0.05), Clients())
    looks = Looks(random, served, 60, lost=0.0)
    before = None
    for number in range(60):
        total = 0.0
        for pod in looks.at(number).values():
            assert pod.counters is not None
            total += pod.counters.waited.count
            assert pod.counters.waited.count >= pod.counters.latency(Latency.FIRST_TOKEN).count
        assert total == (arrived <= number * 10.0).sum()
        assert before is None or total >= before
        before = total


@pytest.mark.parametrize(("shrinks", "stable_replicas"), [(True, 2), (False, 4)])
def test_an_autoscaler_takes_the_stable_replicas_away_with_their_traffic(
    shrinks: bool, stable_replicas: int
) -> None:
    random = np.random.default_rng(6)
    ((stable, canary),) = traffic(Service(shrinks=shrinks, step_s=60.0), GOOD, 50, 1, random)
    assert canary is not None
    assert [len(stable.arrived), len(canary.arrived)] == [stable_replicas, 2]


def test_clients_that_give_up_free_their_place() -> None:
    """So that what a replica can't serve is what it is offered beyond its capacity, and no more."""
    random = np.random.default_rng(7)
    end = 4000.0
    arrived = arrivals(random, [steady(random, end)] * 20, 1, 4 * 1.3 / MEAN_SERVICE_S, end)
    served = serve(random, arrived, 4, GOOD, Clients())
    late = np.isfinite(arrived) & (arrived > end / 2)
    assert np.isfinite(served.gave_up[late]).mean() == pytest.approx(0.3 / 1.3, abs=0.03)


def test_a_crash_begins_the_counters_anew() -> None:
    random = np.random.default_rng(5)
    arrived = arrivals(random, [steady(random, 600.0)], 1, 2.0, 600.0)
    served = serve(random, arrived, 4, GOOD, Clients())
    served.crashes = [np.array([305.0, 308.0])]
    looks = Looks(random, served, 60, lost=0.0)
    before, after = looks.at(30)["pod-0"], looks.at(34)["pod-0"]
    assert before.counters is not None
    assert after.counters is not None
    assert 0 < after.counters.good < before.counters.good
    assert after.started > before.started
    assert "pod-0" not in looks.at(31)
