"""Parts of rollouts that need no cluster: plans, patches, verdicts together, the screen."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from patching import applied
from rich.console import Console

from rollout import Plan
from rollout.display import screen
from rollout.errors import InvalidPlan
from rollout.mechanism import Observed
from rollout.plan import parse_duration, parse_steps
from rollout.record import Mode, Phase, Record, read_record
from rollout.result import Snapshot
from rollout.service import merge_patch
from rollout.verdict import Decision, Figure, Verdict, combine

OBJECTS = st.recursive(
    st.integers() | st.text(max_size=3) | st.lists(st.integers(), max_size=2),
    lambda inner: st.dictionaries(st.sampled_from("abcd"), inner, max_size=4),
)
SPECS = st.dictionaries(st.sampled_from("abcd"), OBJECTS, max_size=4)
RECORD = Record(
    number=3,
    mode=Mode.STANDARD,
    model="hf://owner/new",
    phase=Phase.PROGRESSING,
    percent=25,
    paused="",
    plan=Plan(),
    stable={"model": {"storageUri": "hf://owner/old"}},
    canary={"name": "r3"},
    stable_revision="chat-predictor",
    canary_revision="chat-r3-predictor",
    before="a",
    after="b",
    started_by="tester",
    started_at="2026-01-01T00:00:00+00:00",
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(SPECS, SPECS)
def test_merge_patch_makes_the_new_of_the_old(old: dict[str, Any], new: dict[str, Any]) -> None:
    assert applied(old, merge_patch(old, new)) == new


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("2m", 120), ("1h30m", 5400), ("45", 45)])
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "2 m", "m", "-1s", "1d", "2m!"])
def test_wrong_durations(text: str) -> None:
    with pytest.raises(InvalidPlan):
        parse_duration(text)


@pytest.mark.parametrize("text", ["", "0,5", "5,5", "50,25", "101", "5;10"])
def test_wrong_steps(text: str) -> None:
    with pytest.raises(InvalidPlan):
        Plan(parse_steps(text))


def test_record_is_read_as_it_was_written() -> None:
    assert read_record({"kserve-llamacpp/rollout": RECORD.to_json()}) == RECORD


def test_all_have_to_proceed_and_one_is_enough_to_roll_back() -> None:
    good, wait, bad = (Verdict(decision, (str(decision),)) for decision in Decision)
    assert combine([]).decision is Decision.PROCEED
    assert combine([good, good]).decision is Decision.PROCEED
    assert combine([good, wait]).decision is Decision.WAIT
    assert combine([wait, bad, good]) == Verdict(Decision.ROLL_BACK, ("roll back",))


def test_screen_shows_traffic_figures_and_verdict() -> None:
    figure = Figure("p95 time to first token", "s", 0.5, 0.9, 0.85, 120)
    verdict = Verdict(Decision.ROLL_BACK, ("too slow",), (figure,), ("report.html",))
    snapshot = Snapshot("prod", "chat", RECORD, Observed(25, True, True), verdict=verdict)
    console = Console(width=160)
    with console.capture() as captured:
        console.print(screen(snapshot))
    for expected in (
        "prod/chat",
        "75%",
        "25%",
        "canary, ready",
        "0.9 s",
        "0.85 s",
        "120",
        "too slow",
        "report",
    ):
        assert expected in captured.get()
