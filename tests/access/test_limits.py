"""Limits of one API key, on a clock of the test's own."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from predictor.access.limits import CallerUsage
from predictor.errors import RateLimited


@pytest.fixture
def advance(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    now = 1000.0

    def add(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr("time.monotonic", lambda: now)
    return add


def call(usage: CallerUsage, per_minute: int | None = None, at_once: int | None = None) -> int:
    """0 where the call is let in, else the seconds it is told to wait."""
    try:
        usage.begin(per_minute, at_once)
    except RateLimited as error:
        return error.retry_after
    return 0


def test_a_minutes_worth_may_come_at_once(advance: Callable[[float], None]) -> None:
    usage = CallerUsage()
    assert [call(usage, 4) for _ in range(5)] == [0, 0, 0, 0, 15]
    advance(14)
    assert call(usage, 4) == 1
    advance(1)
    assert [call(usage, 4), call(usage, 4)] == [0, 15]
    advance(3600)
    assert [call(usage, 4) for _ in range(5)] == [0, 0, 0, 0, 15]


@pytest.mark.parametrize("per_minute", [1, 7, 600])
def test_who_waits_as_told_is_let_in(advance: Callable[[float], None], per_minute: int) -> None:
    usage = CallerUsage()
    for _ in range(3 * per_minute):
        if wait := call(usage, per_minute):
            advance(wait)
            assert call(usage, per_minute) == 0


def test_no_more_run_at_once_than_may() -> None:
    usage = CallerUsage()
    assert [call(usage, at_once=2) for _ in range(3)] == [0, 0, 1]
    usage.end()
    assert call(usage, at_once=2) == 0


def test_a_refused_call_uses_nothing_up(advance: Callable[[float], None]) -> None:
    usage = CallerUsage()
    assert call(usage, 2, 1) == 0
    assert call(usage, 2, 1) == 1
    usage.end()
    assert call(usage, 2, 1) == 0
    usage.end()
    assert call(usage, 2, 1) == 30


def test_no_limit() -> None:
    usage = CallerUsage()
    assert not any(call(usage) for _ in range(1000))
