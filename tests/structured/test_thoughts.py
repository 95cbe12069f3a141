"""Thoughts in answers, token by token: where they begin and end, and how they are ended."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from predictor.structured.thinking import Pieces, ThoughtBudget, ThoughtMarks, ThoughtTracker

MARKS = ThoughtMarks(b"<think>", b"</think>", "\n</think>\n\n", is_open=False)
OPEN = ThoughtMarks(b"<think>", b"</think>", "\n</think>\n\n", is_open=True)


def behind(marks: ThoughtMarks, *pieces: bytes) -> list[bytes]:
    tracker = ThoughtTracker(marks)
    return [tracker.behind(piece) for piece in pieces]


@pytest.mark.parametrize(
    ("marks", "pieces", "expected"),
    [
        (MARKS, [b"Yes", b"."], [b"Yes", b"."]),
        (MARKS, [b"<think>", b"a", b"</think>", b"Yes"], [b"", b"", b"", b"Yes"]),
        (MARKS, [b"\n<th", b"ink>a</thi", b"nk>Yes"], [b"", b"", b"Yes"]),
        (MARKS, [b"<", b"tool>"], [b"", b"<tool>"]),
        (MARKS, [b"x", b"<think>"], [b"x", b"<think>"]),
        (OPEN, [b"a<", b"/think>", b"<think>"], [b"", b"", b"<think>"]),
    ],
)
def test_what_stands_behind_a_thought(
    marks: ThoughtMarks, pieces: Sequence[bytes], expected: Sequence[bytes]
) -> None:
    assert behind(marks, *pieces) == expected


def test_control_tokens_of_the_form_show() -> None:
    pieces = Pieces((b"a", b"", b""), {1: b"<think>"})
    assert [pieces[token] for token in range(len(pieces))] == [b"a", b"<think>", b""]


# Tokens: 0 is a word, 1 and 2 make up the end of a thought, 3 begins one.
PIECES = Pieces((b"word ", b"\n</think>", b"\n\n", b"<think>"), {})


def allowed(constraint: ThoughtBudget) -> list[int]:
    logits = np.zeros(len(PIECES), np.float32)
    constraint.mask(logits)
    return [int(token) for token in np.flatnonzero(np.isfinite(logits))]


@pytest.mark.parametrize("marks", [MARKS, OPEN])
def test_a_thought_is_ended_when_its_tokens_are_spent(marks: ThoughtMarks) -> None:
    constraint = ThoughtBudget(None, ThoughtTracker(marks), PIECES, [1, 2], 2)
    if not marks.is_open:
        constraint.accept(3)
    for _ in range(2):
        assert len(allowed(constraint)) == len(PIECES)
        constraint.accept(0)
    for token in (1, 2):
        assert allowed(constraint) == [token]
        constraint.accept(token)
    for _ in range(5):
        assert len(allowed(constraint)) == len(PIECES)
        constraint.accept(0)


def test_a_budget_of_nothing_ends_an_open_thought_at_once() -> None:
    constraint = ThoughtBudget(None, ThoughtTracker(OPEN), PIECES, [1, 2], 0)
    assert allowed(constraint) == [1]


def test_an_answer_without_a_thought_is_left_alone() -> None:
    constraint = ThoughtBudget(None, ThoughtTracker(MARKS), PIECES, [1, 2], 0)
    for _ in range(5):
        assert len(allowed(constraint)) == len(PIECES)
        constraint.accept(0)


def test_a_forced_token_is_possible_whatever_the_logits_say() -> None:
    constraint = ThoughtBudget(None, ThoughtTracker(OPEN), PIECES, [1, 2], 0)
    logits = np.full(len(PIECES), -np.inf, np.float32)
    constraint.mask(logits)
    assert list(np.flatnonzero(np.isfinite(logits))) == [1]
