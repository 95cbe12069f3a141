"""The pacer learns a machine's speed and keeps steps near their bounds."""

from __future__ import annotations

import pytest

from predictor.engine.pacing import MARGIN, PrefillPacer


def machine(pacer: PrefillPacer, decode: float, per_token: float, steps: int = 30) -> None:
    """Show the pacer steps of a machine with these costs in seconds."""
    for _ in range(steps):
        pacer.observe(decode_tokens=4, prefill_tokens=0, seconds=decode)
        pacer.observe(decode_tokens=4, prefill_tokens=100, seconds=decode + 100 * per_token)


def test_without_a_measurement_there_is_no_budget() -> None:
    assert PrefillPacer(0.5).budget(decoding=True) is None


@pytest.mark.parametrize(("decode", "per_token"), [(0.02, 0.004), (0.1, 0.001), (0.2, 0.01)])
def test_a_mixed_step_takes_nearly_as_long_as_allowed(decode: float, per_token: float) -> None:
    pacer = PrefillPacer(0.5)
    machine(pacer, decode, per_token)
    budget = pacer.budget(decoding=True)
    assert budget is not None
    assert decode + budget * per_token == pytest.approx((1 - MARGIN) * 0.5, rel=0.05)


def test_a_lone_prefill_may_take_longer() -> None:
    pacer = PrefillPacer(0.5, max_lone_step_seconds=2)
    machine(pacer, 0.1, 0.01)
    assert pacer.budget(decoding=False) == pytest.approx(200, rel=0.05)


def test_prefilling_goes_on_where_decoding_alone_takes_too_long() -> None:
    pacer = PrefillPacer(0.1, min_tokens=16)
    machine(pacer, 0.5, 0.01)
    assert pacer.budget(decoding=True) == 16


def test_a_machine_that_gets_slower_is_noticed() -> None:
    pacer = PrefillPacer(0.5)
    machine(pacer, 0.02, 0.001)
    pacer.observe(decode_tokens=4, prefill_tokens=100, seconds=0.02 + 100 * 0.00105)
    assert pacer.budget(decoding=True) == pytest.approx((0.5 * (1 - MARGIN) - 0.02) / 0.00105, rel=0.01)
    machine(pacer, 0.02, 0.01)
    assert pacer.budget(decoding=True) == pytest.approx((0.5 * (1 - MARGIN) - 0.02) / 0.01, rel=0.1)


def test_one_slow_step_changes_little() -> None:
    pacer = PrefillPacer(0.5)
    machine(pacer, 0.02, 0.002)
    before = pacer.budget(decoding=True)
    pacer.observe(decode_tokens=4, prefill_tokens=100, seconds=5)
    assert pacer.budget(decoding=True) == pytest.approx(before, rel=0.2)


def test_a_machine_that_gets_faster_is_noticed_by_and_by() -> None:
    pacer = PrefillPacer(0.5)
    machine(pacer, 0.02, 0.01)
    machine(pacer, 0.02, 0.001)
    assert pacer.budget(decoding=True) == pytest.approx((0.5 * (1 - MARGIN) - 0.02) / 0.001, rel=0.1)


def test_tiny_chunks_are_not_measured() -> None:
    pacer = PrefillPacer(0.5)
    pacer.observe(decode_tokens=0, prefill_tokens=3, seconds=1.0)
    assert pacer.budget(decoding=True) is None
