"""How limits are written."""

from __future__ import annotations

import pytest

from rollout.analysis.limits import Limit, Limits, parse_limit
from rollout.errors import RolloutError


@pytest.mark.parametrize(
    ("text", "ratio", "plus"),
    [
        ("2%", 0, 0.02),
        ("300ms", 0, 0.3),
        ("2.5s", 0, 2.5),
        ("0.1", 0, 0.1),
        ("stable", 1, 0),
        ("stable + 1%", 1, 0.01),
        ("1.5 * stable + 100ms", 1.5, 0.1),
        ("1.5x stable+100ms", 1.5, 0.1),
        (" 50ms + 2*stable ", 2, 0.05),
    ],
)
def test_limits_are_read(text: str, ratio: float, plus: float) -> None:
    assert parse_limit(text) == Limit(ratio, pytest.approx(plus), text.strip())


def test_off_is_no_limit() -> None:
    assert parse_limit("off") is None


@pytest.mark.parametrize("text", ["", "fast", "stable * stable", "-1%", "5 minutes", "1% +", "nan"])
def test_anything_else_is_refused_with_examples(text: str) -> None:
    with pytest.raises(RolloutError, match=r"write for example '2%'"):
        parse_limit(text)


@pytest.mark.parametrize("risk", [0, 1, -0.1])
def test_risks_are_probabilities(risk: float) -> None:
    with pytest.raises(RolloutError, match="between 0 and 1"):
        Limits(roll_back_risk=risk)


def test_the_defaults_say_what_they_are() -> None:
    limits = Limits()
    for limit in (limits.error_rate, limits.first_token, limits.inter_token, limits.queue):
        assert limit is not None
        assert parse_limit(limit.text) == limit
