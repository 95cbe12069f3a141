"""How limits are written."""

from __future__ import annotations

import pytest

from rollout.analysis.limits import Kind, Limit, Limits, parse_limit
from rollout.errors import RolloutError


@pytest.mark.parametrize(
    ("kind", "text", "ratio", "plus"),
    [
        (Kind.SHARE, "2%", 0, 0.02),
        (Kind.SHARE, "0.1", 0, 0.1),
        (Kind.TIME, "300ms", 0, 0.3),
        (Kind.TIME, "2.5s", 0, 2.5),
        (Kind.FREQUENCY, "2/h", 0, 2),
        (Kind.TIME, "stable", 1, 0),
        (Kind.SHARE, "stable + 1%", 1, 0.01),
        (Kind.TIME, "1.5 * stable + 100ms", 1.5, 0.1),
        (Kind.TIME, "1.5x stable+100ms", 1.5, 0.1),
        (Kind.TIME, " 50ms + 2*stable ", 2, 0.05),
        (Kind.FREQUENCY, "stable + 0.2/h", 1, 0.2),
    ],
)
def test_limits_are_read(kind: Kind, text: str, ratio: float, plus: float) -> None:
    assert parse_limit(text, kind) == Limit(ratio, pytest.approx(plus), text.strip())


@pytest.mark.parametrize("kind", Kind)
def test_off_is_no_limit(kind: Kind) -> None:
    assert parse_limit("off", kind) is None


@pytest.mark.parametrize("text", ["", "fast", "stable * stable", "-1%", "5 minutes", "1% +", "nan"])
@pytest.mark.parametrize("kind", Kind)
def test_anything_else_is_refused_with_examples(kind: Kind, text: str) -> None:
    with pytest.raises(RolloutError, match="write for example '"):
        parse_limit(text, kind)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (Kind.SHARE, "300ms"),
        (Kind.SHARE, "stable + 2s"),
        (Kind.SHARE, "1/h"),
        (Kind.TIME, "5%"),
        (Kind.TIME, "5"),
        (Kind.TIME, "1.2 * stable + 5%"),
        (Kind.FREQUENCY, "5%"),
        (Kind.FREQUENCY, "2"),
    ],
)
def test_units_are_those_of_the_figure(kind: Kind, text: str) -> None:
    with pytest.raises(RolloutError, match="write for example"):
        parse_limit(text, kind)


@pytest.mark.parametrize("text", ["2", "100%", "stable + 150%"])
def test_shares_are_below_one(text: str) -> None:
    with pytest.raises(RolloutError, match="lets every request fail"):
        parse_limit(text, Kind.SHARE)


@pytest.mark.parametrize("risk", [0, 1, -0.1])
def test_risks_are_probabilities(risk: float) -> None:
    with pytest.raises(RolloutError, match="between 0 and 1"):
        Limits(roll_back_risk=risk)


def test_the_defaults_say_what_they_are() -> None:
    limits = Limits()
    kinds = (Kind.SHARE, Kind.TIME, Kind.TIME, Kind.TIME, Kind.FREQUENCY)
    assert [parse_limit(limit.text, kind) for limit, kind in zip(limits.given(), kinds, strict=True)] == (
        limits.given()
    )
