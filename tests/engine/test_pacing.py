"""The pacer keeps steps near their bounds on a machine whose speed was learnt."""

from __future__ import annotations

import pytest

from predictor.engine.pacing import MARGIN, PrefillPacer
from predictor.engine.step_cost import StepCost


class Machine:
    """A pacer, and the steps of a machine for it to learn from."""

    def __init__(self, max_step_seconds: float, **options: float) -> None:
        self.cost = StepCost()
        self.pacer = PrefillPacer(self.cost, max_step_seconds, **options)

    def runs(self, decode: float, per_token: float, steps: int = 60) -> None:
        """Steps with these costs in seconds."""
        for _ in range(steps):
            self.cost.observe(decode_tokens=4, prompt_tokens=0, seconds=decode)
            self.cost.observe(decode_tokens=4, prompt_tokens=100, seconds=decode + 100 * per_token)

    @property
    def budget(self) -> int:
        budget = self.pacer.budget(decode_tokens=4, streams_wait=True)
        assert budget is not None
        return budget


def test_without_a_measurement_there_is_no_budget() -> None:
    assert Machine(0.5).pacer.budget(decode_tokens=4, streams_wait=True) is None


@pytest.mark.parametrize(("decode", "per_token"), [(0.02, 0.004), (0.1, 0.001), (0.2, 0.01)])
def test_a_mixed_step_takes_nearly_as_long_as_allowed(decode: float, per_token: float) -> None:
    machine = Machine(0.5)
    machine.runs(decode, per_token)
    assert decode + machine.budget * per_token == pytest.approx((1 - MARGIN) * 0.5, rel=0.05)


def test_a_lone_prefill_may_take_longer() -> None:
    machine = Machine(0.5, max_lone_step_seconds=2)
    machine.runs(0.1, 0.01)
    assert machine.pacer.budget(decode_tokens=0, streams_wait=False) == pytest.approx(200, rel=0.05)


def test_streams_that_wait_for_another_batch_count_too() -> None:
    machine = Machine(0.5)
    machine.runs(0.1, 0.01)
    assert machine.pacer.budget(decode_tokens=0, streams_wait=True) == pytest.approx(42, rel=0.05)


def test_prefilling_goes_on_where_decoding_alone_takes_too_long() -> None:
    machine = Machine(0.1, min_tokens=16)
    machine.runs(0.5, 0.01)
    assert machine.budget == 16


def test_a_machine_that_gets_slower_is_noticed() -> None:
    machine = Machine(0.5)
    machine.runs(0.02, 0.001)
    machine.cost.observe(decode_tokens=4, prompt_tokens=100, seconds=0.02 + 100 * 0.00105)
    assert machine.budget == pytest.approx((0.5 * (1 - MARGIN) - 0.02) / 0.00105, rel=0.01)
    machine.runs(0.02, 0.01)
    assert machine.budget == pytest.approx((0.5 * (1 - MARGIN) - 0.02) / 0.01, rel=0.1)


def test_one_slow_step_changes_little() -> None:
    machine = Machine(0.5)
    machine.runs(0.02, 0.002)
    before = machine.budget
    machine.cost.observe(decode_tokens=4, prompt_tokens=100, seconds=5)
    assert machine.budget == pytest.approx(before, rel=0.2)


def test_a_machine_that_gets_faster_is_noticed_by_and_by() -> None:
    machine = Machine(0.5)
    machine.runs(0.02, 0.01)
    machine.runs(0.02, 0.001)
    assert machine.budget == pytest.approx((0.5 * (1 - MARGIN) - 0.02) / 0.001, rel=0.1)
