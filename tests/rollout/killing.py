"""Kills a rollout's command with SIGKILL at a chosen request, and looks at what it left."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable
from typing import Any

from cluster_front import Seen
from polling import wait_until
from quick_command import PROGRAM
from rollout_bench import NEW, OLD, Bench

from rollout import Outcome
from rollout.errors import NotPossibleNow
from rollout.record import Phase, digest

BROKEN = "hf://owner/broken"

Chosen = Callable[[Seen], bool]


def writes(seen: Seen) -> bool:
    """Chooses the requests that change the service."""
    return seen.writes_service


def any_request(seen: Seen) -> bool:
    """Chooses all requests, reads and reviews too."""
    return True


def kill_at(bench: Bench, number: int, *command: str, done: bool, chosen: Chosen) -> int:
    """Run a command and kill it at the `number`-th of the chosen requests.

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
    process = bench.command(*command, program=PROGRAM)
    started.set()
    _, errors = process.communicate(timeout=300)
    assert "Traceback" not in errors, errors
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

    wait_until(served)


def without_name(predictor: dict[str, Any]) -> dict[str, Any]:
    """A promoted predictor keeps its canary's name in Standard mode."""
    return {key: value for key, value in predictor.items() if key != "name"}
