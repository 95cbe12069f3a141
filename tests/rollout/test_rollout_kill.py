"""Killed with SIGKILL at any moment, a rollout can be resumed or taken back, and nothing is half-done."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
from cluster_front import Seen
from killing import BROKEN, any_request, assert_consistent, go_on, kill_at, writes
from rollout_bench import NAME, NEW, QUICK, UNJUDGED, Bench

from rollout import Outcome
from rollout.errors import ClusterUnreachable

pytestmark = pytest.mark.timeout(3600)

# Start 2, the canary's name 1, four steps of 2, promotion 2, its end 1.
WRITES = 14

START = ("start", NAME, *UNJUDGED, "--model")


def every_write() -> Iterator[Any]:
    """Each write, carried out or not, then resumed or rolled back; the ones by default that differ most."""
    for number, done, resume in product(range(1, WRITES + 1), (True, False), (True, False)):
        quick = number in (2, WRITES - 1) and done and resume
        name = f"{'after' if done else 'before'}-{number}-{'resume' if resume else 'rollback'}"
        marks = () if quick else pytest.mark.slow
        yield pytest.param(number, done, resume, id=name, marks=marks)


@pytest.mark.parametrize(("number", "done", "resume"), list(every_write()))
def test_killed_at_a_write(bench: Bench, mode: str, number: int, done: bool, resume: bool) -> None:
    bench.create(mode)
    before = bench.spec()
    assert kill_at(bench, number, *START, NEW, done=done, chosen=writes) == -9
    outcome = go_on(bench, before, resume=resume)
    if resume and number > (1 if not done else 0):
        assert outcome is Outcome.PROMOTED
    assert_consistent(bench, before, outcome)


def test_the_writes_are_all_there_are(bench: Bench, mode: str) -> None:
    bench.create(mode)
    done = 0

    def count(seen: Seen, status: int) -> None:
        nonlocal done
        done += seen.writes_service and status == 200

    bench.front.after = count
    bench.rollout().start(NEW, QUICK)
    assert done == WRITES


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 100))])
def test_killed_at_random(bench: Bench, seed: int) -> None:
    """At any request, reads and reviews too, of a good canary or a bad one, then resumed or taken back."""
    chance = random.Random(seed)
    mode, model = chance.choice(["Standard", "Knative"]), chance.choice([NEW, NEW, BROKEN])
    number, done, resume = chance.randint(1, 60), chance.random() < 0.5, chance.random() < 0.5
    bench.create(mode)
    before = bench.spec()
    status = kill_at(bench, number, *START, model, done=done, chosen=any_request)
    assert status in (-9, 0, 3)
    assert_consistent(bench, before, go_on(bench, before, resume=resume))


@pytest.mark.slow
def test_killed_again_and_again(bench: Bench, mode: str) -> None:
    """Each command gets a little further than the one before it."""
    bench.create(mode)
    before = bench.spec()
    kill_at(bench, 3, *START, NEW, done=True, chosen=writes)
    for _ in range(4):
        bench.front.before = killer = _Dying()
        with pytest.raises(ClusterUnreachable):
            bench.rollout().resume()
        assert killer.answers
    bench.front.before = lambda _: None
    assert bench.rollout().resume().outcome is Outcome.PROMOTED
    assert_consistent(bench, before, Outcome.PROMOTED)


class _Dying:
    """An API server that takes two writes and then no request any more."""

    def __init__(self) -> None:
        self.writes, self.answers = 0, 0

    def __call__(self, seen: Seen) -> tuple[int, dict[str, str]] | None:
        self.writes += seen.writes_service
        if self.writes <= 2:
            return None
        self.answers += 1
        return 503, {"message": "going down"}
