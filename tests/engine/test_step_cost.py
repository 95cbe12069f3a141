"""What a step costs is learnt from steps of different sizes, with prompts and without."""

from __future__ import annotations

import pytest

from predictor.engine.step_cost import StepCost


def decode(cost: StepCost, fixed: float, per_token: float) -> None:
    for step in range(200):
        tokens = 1 + step % 4
        cost.observe(decode_tokens=tokens, prompt_tokens=0, seconds=fixed + per_token * tokens)


def test_the_cost_of_a_token_is_learned_from_steps_of_different_sizes() -> None:
    cost = StepCost()
    decode(cost, 0.05, 0.002)
    assert cost.per_decode_token == pytest.approx(0.002, rel=0.01)
    assert cost.decoding(8) == pytest.approx(0.066, rel=0.01)


def test_a_step_that_decodes_nothing_costs_nothing() -> None:
    cost = StepCost()
    decode(cost, 0.05, 0.002)
    assert cost.decoding(0) == 0


@pytest.mark.parametrize("streams", [0, 1, 12])
def test_prompts_cost_what_a_step_takes_beyond_its_streams(streams: int) -> None:
    cost = StepCost()
    decode(cost, 0.05, 0.002)
    for _ in range(50):
        fixed = 0.05 + 0.002 * streams if streams else 0.0
        cost.observe(decode_tokens=streams, prompt_tokens=100, seconds=fixed + 0.3)
    assert cost.per_prompt_token == pytest.approx(0.003, rel=0.02)


def test_sizes_are_told_apart() -> None:
    cost = StepCost()
    decode(cost, 0.05, 0.002)
    for tokens, seconds in ((16, 0.02), (64, 0.2), (256, 0.3)):
        for _ in range(10):
            cost.observe(decode_tokens=0, prompt_tokens=tokens, seconds=seconds)
    assert cost.reading(0, 64) == pytest.approx(0.2)
    assert cost.reading(0, 160) == pytest.approx(0.25)
    assert cost.most_prompt_tokens(0, 0.25, 512) == pytest.approx(160, abs=2)
    # Reading 16 at a time is faster than 64.
    assert cost.most_prompt_tokens(0, 0.2, 512) == 16


def test_sizes_that_are_not_seen_for_long_are_forgotten() -> None:
    cost = StepCost()
    cost.observe(decode_tokens=0, prompt_tokens=256, seconds=0.3)
    for _ in range(100):
        cost.observe(decode_tokens=0, prompt_tokens=16, seconds=0.1)
    assert cost.largest == 16
