"""What is said of answers, and when the canary's are too bad."""

from __future__ import annotations

import re
from typing import Any

import pytest

from rollout.quality.answers import Answer
from rollout.quality.gate import Quality, QualityLimits
from rollout.quality.golden import GoldenPrompt
from rollout.quality.scoring import Compared, is_refusal, is_right, is_valid_json, normalised
from rollout.verdict import Decision

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


def prompt(name: str = "p", **fields: Any) -> GoldenPrompt:
    return GoldenPrompt(name, ({"role": "user", "content": "?"},), **fields)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("  Paris. ", "paris"), ("PARIS\n is  nice!", "paris is nice"), ("“x”", "“x”"), ("ﬁne", "fine")],
)
def test_normalisation(text: str, expected: str) -> None:
    assert normalised(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I\u2019m sorry.",
        "Sorry, no.",
        "I cannot do this.",
        "I can't say.",
        "As an AI language model, I",
        "Unfortunately, I don't know.",
        "I am unable to answer.",
        "I won't.",
    ],
)
def test_refusals(text: str) -> None:
    assert is_refusal(text)


@pytest.mark.parametrize("text", ["I can tell you.", "The sorry state of affairs", "Paris", "", "As an aid"])
def test_no_refusals(text: str) -> None:
    assert not is_refusal(text)


@pytest.mark.parametrize("text", ['{"n": 1}', '```json\n{"n": 1}\n```', ' {"n": 1}\n'])
def test_valid_json(text: str) -> None:
    assert is_valid_json(prompt(is_json=True, schema=SCHEMA), text)


@pytest.mark.parametrize("text", ["", '{"n": 1', '{"n": "1"}', "{}", 'Here: {"n": 1}', "[" * 100_000])
def test_invalid_json(text: str) -> None:
    assert not is_valid_json(prompt(is_json=True, schema=SCHEMA), text)


def test_an_answer_has_to_pass_all_checks() -> None:
    checked = prompt(expected="Paris", must_match=re.compile("P"))
    assert is_right(checked, Answer("Paris."))
    assert not is_right(checked, Answer("paris"))
    assert not is_right(checked, Answer("Paris, Texas"))
    assert not is_right(checked, Answer("Paris", error="cut off"))


def quality(*pairs: tuple[str, str], drop: float | None = 0.0, **fields: Any) -> Quality:
    return Quality(
        [
            Compared(
                prompt(f"p{i}", **fields),
                Answer(stable, 1.0, -0.5, None if stable else "none"),
                Answer(canary, 2.0, -0.6, None if canary else "none"),
                drop,
            )
            for i, (stable, canary) in enumerate(pairs)
        ]
    )


def decision(measured: Quality, limits: QualityLimits | None = None) -> Decision:
    return measured.verdict(limits or QualityLimits()).decision


def test_equal_answers_pass() -> None:
    assert decision(quality(*[("yes", "yes")] * 5)) is Decision.PROCEED


def test_lost_answers_roll_back_and_are_named() -> None:
    verdict = quality(*[("yes", "yes")] * 3, ("yes", "no"), expected="yes").verdict(QualityLimits())
    assert verdict.decision is Decision.ROLL_BACK
    assert "right answers: 3 of 4 on the golden set, and 4 on the stable" in verdict.reasons[0]
    assert "changed most: p3" in verdict.reasons[0]


def test_from_ten_prompts_on_one_may_turn() -> None:
    assert decision(quality(*[("yes", "yes")] * 11, ("yes", "no"), expected="yes")) is Decision.PROCEED
    assert (
        decision(quality(*[("yes", "yes")] * 11, *[("yes", "no")] * 2, expected="yes")) is Decision.ROLL_BACK
    )


def test_right_answers_gained_make_up_for_lost_ones() -> None:
    assert decision(quality(("yes", "no"), ("no", "yes"), expected="yes")) is Decision.PROCEED


def test_no_answers_json_and_refusals() -> None:
    assert decision(quality(("yes", ""))) is Decision.ROLL_BACK
    assert decision(quality(("{}", "{"), is_json=True)) is Decision.ROLL_BACK
    assert decision(quality(("Yes", "I'm sorry, no"))) is Decision.ROLL_BACK
    assert decision(quality(("I'm sorry, no", "Yes"))) is Decision.PROCEED


def test_unlikely_answers_roll_back() -> None:
    verdict = quality(("yes", "no"), drop=0.7).verdict(QualityLimits())
    assert verdict.decision is Decision.ROLL_BACK
    assert "0.70 nats per token less likely" in verdict.reasons[0]
    assert decision(quality(("yes", "no"), drop=0.3)) is Decision.PROCEED
    assert decision(quality(("yes", "no"), drop=0.7), QualityLimits(logprob_drop=None)) is Decision.PROCEED
    assert decision(quality(("yes", "no"), drop=None)) is Decision.PROCEED


def test_agreement_is_a_limit_on_request() -> None:
    half = quality(("yes", "Yes!"), ("yes", "no"))
    assert half.agreement == 0.5
    assert half.exact == 0
    assert decision(half) is Decision.PROCEED
    assert decision(half, QualityLimits(agreement=0.6)) is Decision.ROLL_BACK


def test_lost_answers_come_first_among_the_changed_ones() -> None:
    measured = Quality(
        [
            Compared(prompt("same"), Answer("a"), Answer("A."), 0.1),
            Compared(prompt("near"), Answer("a b c"), Answer("a b d"), 0.1),
            Compared(prompt("far"), Answer("a b c"), Answer("x"), 2.0),
            Compared(prompt("lost", expected="a"), Answer("a"), Answer("b"), 0.2),
        ]
    )
    assert [one.prompt.id for one in measured.most_changed] == ["lost", "far", "near"]
