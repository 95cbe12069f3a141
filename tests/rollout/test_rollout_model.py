"""A model check of the driver: whatever the API server, the controller and other people do meanwhile."""

from __future__ import annotations

import pytest
from fake_api import Fault
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from rollout_machine import Meddling, RolloutMachine


def check(examples: int, steps: int) -> None:
    profile = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    run_state_machine_as_test(RolloutMachine, settings=profile)


def test_whatever_happens_meanwhile() -> None:
    check(25, 3)


@pytest.mark.slow
def test_whatever_happens_meanwhile_many_times() -> None:
    check(2000, 6)


def at(place: str, number: int, *what: object, lasts: int = 1) -> Meddling:
    return Meddling(what, place, number, lasts)


Commands = tuple[tuple[str, tuple[Meddling, ...]], ...]

# What the driver once got wrong, and the machine has to notice whatever the draw: where the rollout stands at
# first, and the commands with what happens meanwhile.
KNOWN: dict[str, tuple[int | None, Commands]] = {
    "a pause whose answer is lost is one's own": (
        None,
        (
            ("start", (at("write", 4, "interrupt"),)),
            ("pause", (at("write", 1, Fault.LOST_ANSWER),)),
        ),
    ),
    "a rollback whose answers are lost is one's own": (
        25,
        (("rollback", (at("write", 1, Fault.LOST_ANSWER), at("write", 2, Fault.LOST_ANSWER))),),
    ),
    "an interrupt beside another command counts": (
        None,
        (("start", (at("dry run", 2, "pause", "interrupt"),)),),
    ),
    "an interrupt beside a rollback counts": (
        None,
        (("start", (at("dry run", 2, "rollback", "interrupt"),)),),
    ),
    "an end is read back": (25, (("rollback", (at("ended", 1, "set another model"),)),)),
    "a promotion is read back": (100, (("promote", (at("ended", 1, "set another model"),)),)),
    "what took the stable place stays": (
        100,
        (
            ("step", (at("request", 1, "down", lasts=60),)),
            ("rollback", (at("request", 1, "edit"),)),
        ),
    ),
    "an API server that is away is waited for": (
        None,
        (
            (
                "start",
                (at("write", 4, Fault.ERROR, lasts=12), at("request", 40, Fault.LOST_REQUEST, lasts=14)),
            ),
        ),
    ),
    "a canary that the controller never saw is taken back": (
        None,
        (
            ("start", (at("request", 1, "down", lasts=70), at("write", 2, "interrupt"))),
            ("rollback", ()),
        ),
    ),
    "a rollback that was undone isn't claimed again": (
        25,
        (("rollback", ()), ("rollback", (at("request", 1, "set the new model"),))),
    ),
    "a rollback goes between two steps": (None, (("start", (at("dry run", 3, "rollback"),)),)),
}


@pytest.mark.parametrize("mode", ["Standard", "Knative"])
@pytest.mark.parametrize("name", KNOWN)
def test_what_was_wrong_once(name: str, mode: str) -> None:
    paused_at, commands = KNOWN[name]
    machine = RolloutMachine()
    machine.begin(mode, paused_at=paused_at)
    try:
        for command, meddlings in commands:
            machine.command(command, *meddlings)
    finally:
        machine.teardown()
