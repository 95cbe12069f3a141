"""`rollout rollback` killed with SIGKILL at any moment: run again it finishes, and nothing is half-done."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
from cluster_front import Seen
from killing import any_request, assert_consistent, go_on, kill_at, writes
from rollout_bench import NAME, NEW, UNJUDGED, Bench

from rollout import Outcome
from rollout.record import digest

pytestmark = pytest.mark.timeout(3600)

ROLLBACK = ("rollback", NAME, "--reason", "looks odd")
# The withdrawal 2; in Knative mode the old spec as a new revision 2, and all traffic to it 2; the end 1.
WRITES = {"Standard": 3, "Knative": 7}
PERCENTS = (0, 25, 100)


def writes_of(mode: str, percent: int) -> int:
    """At 0 % there is no traffic to take away in Knative mode, so the withdrawal is a note only."""
    return WRITES[mode] - (mode == "Knative" and percent == 0)


# Those that the default tests have: announced, and not made.
QUICK = {"Standard": 1, "Knative": 5}


def every_write() -> Iterator[Any]:
    """Each write of a rollback from a share, carried out or not; by default one of each mode."""
    for mode, percent in product(WRITES, PERCENTS):
        for number, done in product(range(1, writes_of(mode, percent) + 1), (False, True)):
            quick = (number, done, percent) == (QUICK[mode], True, 25)
            name = f"{mode}-{percent}-{'after' if done else 'before'}-{number}"
            marks = () if quick else pytest.mark.slow
            yield pytest.param(mode, number, done, percent, id=name, marks=marks)


@pytest.mark.parametrize(("mode", "number", "done", "percent"), list(every_write()))
def test_killed_at_a_write(bench: Bench, mode: str, number: int, done: bool, percent: int) -> None:
    bench.create(mode)
    before = bench.spec()
    bench.pause_at(percent)
    assert kill_at(bench, number, *ROLLBACK, done=done, chosen=writes) == -9
    record = bench.rollout().status().record
    assert record is not None
    assert digest(bench.spec()) in (record.before, record.after)
    assert bench.world.traffic.get(record.canary_revision, 0) <= percent
    status, output, errors = bench.run(*ROLLBACK)
    assert status == 0, errors
    assert "rolled back" in output
    assert_consistent(bench, before, Outcome.ROLLED_BACK)


@pytest.mark.parametrize("percent", [0, 25, pytest.param(100, marks=pytest.mark.slow)])
def test_the_writes_are_all_there_are(bench: Bench, mode: str, percent: int) -> None:
    bench.create(mode)
    bench.pause_at(percent)
    done = 0

    def count(seen: Seen, status: int) -> None:
        nonlocal done
        done += seen.writes_service and status == 200

    bench.front.after = count
    bench.rollout().rollback()
    assert done == writes_of(mode, percent)


# By default a quick one: in Standard mode, with one kill of each command.
@pytest.mark.parametrize(
    "seed", [pytest.param(seed, marks=() if seed == 26 else pytest.mark.slow) for seed in range(100)]
)
def test_killed_at_random(bench: Bench, seed: int) -> None:
    """Up to three times at any request, reads and waits too, of a rollback from any state of a rollout."""
    chance = random.Random(seed)
    mode = chance.choice(list(WRITES))
    bench.create(mode)
    before = bench.spec()
    if chance.random() < 0.5:
        bench.pause_at(chance.choice([0, 5, 25, 50, 100]))
    else:
        start = ("start", NAME, "--model", NEW, *UNJUDGED)
        kill_at(bench, chance.randint(8, 60), *start, done=chance.random() < 0.5, chosen=any_request)
    for _ in range(chance.randint(1, 3)):
        number, done = chance.randint(1, 45 if mode == "Knative" else 15), chance.random() < 0.5
        # 1 where there is nothing to roll back: not begun, or promoted.
        assert kill_at(bench, number, *ROLLBACK, done=done, chosen=any_request) in (-9, 0, 1)
    assert_consistent(bench, before, go_on(bench, before, resume=False))
