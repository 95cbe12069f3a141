"""The pacer keeps steps below their bounds on machines whose speed is learnt while they run."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest

from predictor.engine.pacing import MARGIN, PrefillPacer
from predictor.engine.step_cost import StepCost

STREAMS = 4
MOST = 512
# Seconds that reading prompt tokens adds to a step of so many tokens.
Reading = Callable[[int, int], float]


class Machine:
    """A pacer, and a machine that computes what it allows.

    Args:
        bound: seconds of a step that also decodes.
        decode: seconds of one that only decodes.
        reading: of the machine.
    """

    def __init__(self, bound: float, decode: float, reading: Reading) -> None:
        self.cost = StepCost()
        self.pacer = PrefillPacer(self.cost, bound, most_tokens=MOST)
        self.decode, self.reading = decode, reading
        for _ in range(30):
            self.cost.observe(decode_tokens=STREAMS, prompt_tokens=0, seconds=decode)

    def reads(self, prompt: int, slowness: Callable[[int], float] = lambda _: 1.0) -> list[float]:
        """Seconds of each step in which a prompt is read beside the streams.

        Args:
            prompt: its tokens.
            slowness: of the machine, by how many were read before.
        """
        took: list[float] = []
        done = 0
        while done < prompt:
            budget = self.pacer.budget(decode_tokens=STREAMS, streams_wait=True)
            tokens = min(MOST - STREAMS, prompt - done, budget or MOST)
            seconds = self.decode + self.reading(STREAMS + tokens, tokens) * slowness(done)
            self.cost.observe(decode_tokens=STREAMS, prompt_tokens=tokens, seconds=seconds)
            took.append(seconds)
            done += tokens
        return took


def linear(per_token: float) -> Reading:
    return lambda _, tokens: per_token * tokens


def with_fixed_part(tokens: int, prompt_tokens: int) -> float:
    """As with OpenBLAS: from 32 tokens on, all weights are converted first."""
    return 0.1 + 0.0008 * prompt_tokens if tokens >= 32 else 0.0035 * prompt_tokens


def test_nothing_limits_a_first_prompt_that_nobody_waits_for() -> None:
    assert PrefillPacer(StepCost(), 0.5).budget(decode_tokens=0, streams_wait=False) is None


@pytest.mark.parametrize("bound", [0.06, 0.12, 0.5])
@pytest.mark.parametrize("reading", [linear(0.004), linear(0.0003), with_fixed_part])
def test_the_bound_is_kept_from_the_first_prompt_on(reading: Reading, bound: float) -> None:
    chance = random.Random(1)
    machine = Machine(bound, 0.012, reading)
    prompts = [300, 60, 2500, 60, 60, 1200, 40] * 3

    def slowness(done: int) -> float:
        return (1 + done / 5000) * chance.uniform(0.95, 1.08)

    gaps = [gap for prompt in prompts for gap in machine.reads(prompt, slowness)]
    assert np.percentile(gaps, 99) <= 1.15 * bound


@pytest.mark.parametrize(("decode", "per_token"), [(0.02, 0.004), (0.1, 0.001), (0.2, 0.01)])
def test_a_mixed_step_takes_nearly_as_long_as_allowed(decode: float, per_token: float) -> None:
    machine = Machine(0.5, decode, linear(per_token))
    machine.reads(3000)
    expected = min((1 - MARGIN) * 0.5, decode + per_token * (MOST - STREAMS))
    assert machine.reads(3000)[1] == pytest.approx(expected, rel=0.05)


def test_a_kernel_whose_fixed_part_does_not_pay_is_left_alone() -> None:
    slow_start = Machine(0.13, 0.012, lambda size, tokens: 0.09 if size >= 32 else 0.001 * tokens)
    slow_start.reads(3000)
    steps = slow_start.reads(300)
    assert sum(steps) < 300 * 0.003


def test_a_lone_prefill_may_take_longer() -> None:
    machine = Machine(0.5, 0.1, linear(0.01))
    machine.reads(1000)
    assert machine.pacer.budget(decode_tokens=0, streams_wait=False) == pytest.approx(100, rel=0.2)
    assert machine.pacer.budget(decode_tokens=0, streams_wait=True) == pytest.approx(42, rel=0.2)


def test_prefilling_goes_on_where_decoding_alone_takes_too_long(caplog: pytest.LogCaptureFixture) -> None:
    machine = Machine(0.1, 0.5, linear(0.01))
    assert len(machine.reads(80)) == 10
    assert caplog.text.count("--max-inter-token-latency-ms 100 can't be kept") == 1


def test_a_machine_that_gets_slower_is_noticed() -> None:
    machine = Machine(0.5, 0.02, linear(0.001))
    machine.reads(3000)
    machine.reading = linear(0.005)
    assert machine.reads(3000)[-2] <= 0.5


def test_one_slow_step_changes_little() -> None:
    machine = Machine(0.5, 0.02, linear(0.002))
    machine.reads(3000)
    before = machine.reads(3000)[1]
    machine.cost.observe(decode_tokens=STREAMS, prompt_tokens=200, seconds=5)
    assert sum(machine.reads(3000)[2:5]) == pytest.approx(3 * before, rel=0.4)


def test_a_machine_that_gets_faster_is_noticed_by_and_by() -> None:
    machine = Machine(0.5, 0.02, linear(0.01))
    machine.reads(3000)
    machine.reading = linear(0.002)
    machine.reads(9000)
    assert machine.reads(1000)[0] == pytest.approx((1 - MARGIN) * 0.5, rel=0.15)
