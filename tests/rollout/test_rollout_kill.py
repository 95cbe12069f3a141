"""Killed with SIGKILL at any moment, a rollout can be resumed or taken back, and nothing is half-done."""

from __future__ import annotations

import random
import subprocess
import threading
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import pytest
from cluster_front import Seen
from rollout_bench import NAME, NEW, OLD, QUICK, UNJUDGED, Bench

from rollout import Outcome
from rollout.errors import ClusterUnreachable, NotPossibleNow
from rollout.record import Phase, digest

pytestmark = pytest.mark.timeout(3600)

BROKEN = "hf://owner/broken"
# Start 2, the canary's name 1, four steps of 2, promotion 2, its end 1.
WRITES = 14

Chosen = Callable[[Seen], bool]


def kill_at(bench: Bench, number: int, model: str, *, done: bool, chosen: Chosen) -> int:
    """Start a rollout and kill it at the `number`-th of the chosen requests.

    Args:
        done: whether the server carries that request out.

    Returns:
        The process's exit status: -9, or how it ended where there were fewer such requests.
    """
    process: subprocess.Popen[str] | None = None
    count, started = 0, threading.Event()

    def kill(seen: Seen) -> bool:
        nonlocal count
        started.wait()
        count += chosen(seen)
        if count >= number:
            assert process is not None
            process.kill()
            process.wait()
        return count >= number

    def before(seen: Seen) -> tuple[int, dict[str, str]] | None:
        dead = not done and kill(seen)
        return (503, {"message": "the client is dead"}) if dead else None

    def after(seen: Seen, _: int) -> None:
        if done:
            kill(seen)

    bench.front.before, bench.front.after = before, after
    process = bench.command("start", NAME, "--model", model, *UNJUDGED)
    started.set()
    _, errors = process.communicate(timeout=300)
    assert process.returncode in (-9, 0, 3), errors
    bench.front.before, bench.front.after = lambda _: None, lambda _, __: None
    return process.returncode


def go_on(bench: Bench, before: dict[str, Any], *, resume: bool) -> Outcome:
    """Resume, or roll back, what a killed command left; returns how it ended."""
    record = bench.rollout().status().record
    if record is None:
        assert bench.spec() == before, "nothing was announced, so nothing may have been changed"
        return Outcome.LEFT
    assert digest(bench.spec()) in (record.before, record.after)
    if not record.phase.active:
        return Outcome.PROMOTED if record.phase is Phase.PROMOTED else Outcome.ROLLED_BACK
    if not resume:
        try:
            return bench.rollout().rollback().outcome
        except NotPossibleNow:
            # In Standard mode the canary is the stable predictor from one patch on: only forward is left.
            assert record.phase is Phase.PROMOTING
    return bench.rollout().resume().outcome


def assert_consistent(bench: Bench, before: dict[str, Any], outcome: Outcome) -> None:
    """The service is what it was, or it has the new model and is otherwise the same; one version serves."""
    spec, record = bench.spec(), bench.rollout().status().record
    model = NEW if outcome is Outcome.PROMOTED else OLD
    old = before["predictor"]
    expected = {**old, "model": {**old["model"], "storageUri": model}}
    assert {**spec, "predictor": without_name(spec["predictor"])} == {"predictor": without_name(expected)}
    if outcome is not Outcome.PROMOTED:
        assert spec == before
    assert record is None or not record.phase.active

    def served() -> bool:
        serving = [name for name, share in bench.world.traffic.items() if share]
        return len(serving) == 1 and f'"{model}"' in bench.world.workloads[serving[0]].template

    bench.wait(served)


def without_name(predictor: dict[str, Any]) -> dict[str, Any]:
    """A promoted predictor keeps its canary's name in Standard mode."""
    return {key: value for key, value in predictor.items() if key != "name"}


def writes(seen: Seen) -> bool:
    return seen.writes_service


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
    assert kill_at(bench, number, NEW, done=done, chosen=writes) == -9
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
    kill_at(bench, number, model, done=done, chosen=lambda _: True)
    assert_consistent(bench, before, go_on(bench, before, resume=resume))


@pytest.mark.slow
def test_killed_again_and_again(bench: Bench, mode: str) -> None:
    """Each command gets a little further than the one before it."""
    bench.create(mode)
    before = bench.spec()
    kill_at(bench, 3, NEW, done=True, chosen=writes)
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
