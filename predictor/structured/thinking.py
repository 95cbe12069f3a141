"""Thoughts in answers, followed token by token: constraints don't hold for them, and they can be ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from predictor.engine.constraint import TokenConstraint


@dataclass(frozen=True, slots=True)
class ThoughtMarks:
    """What stands around thoughts.

    Attributes:
        start: what begins one.
        end: what ends it.
        closing: the text to write where one is ended early.
        is_open: whether the prompt has begun one.
    """

    start: bytes
    end: bytes
    closing: str
    is_open: bool


class Pieces:
    """Bytes of each token as they show in an answer, control tokens of a form included.

    Args:
        pieces: by token id, empty for control tokens.
        marks: text of the control tokens that show.
    """

    def __init__(self, pieces: Sequence[bytes], marks: Mapping[int, bytes]) -> None:
        self._pieces = pieces
        self._marks = marks

    def __getitem__(self, token: int) -> bytes:
        return self._marks.get(token) or self._pieces[token]

    def __len__(self) -> int:
        return len(self._pieces)


class ThoughtTracker:
    """Tells where an answer's thought begins and ends.

    Args:
        marks: of thoughts.
    """

    def __init__(self, marks: ThoughtMarks) -> None:
        self._marks = marks
        self._tail = b""
        self._is_undecided = not marks.is_open
        self.is_thinking = marks.is_open

    def behind(self, piece: bytes) -> bytes:
        """Take the next piece of an answer; returns what of it stands behind the thought."""
        if not self._is_undecided and not self.is_thinking:
            return piece
        text = self._tail + piece
        if self._is_undecided:
            begun = text.lstrip()
            start = self._marks.start
            if not begun or (len(begun) < len(start) and start.startswith(begun)):
                self._tail = text
                return b""
            self._is_undecided = False
            if not begun.startswith(start):
                self._tail = b""
                return text
            self.is_thinking = True
            text = begun[len(start) :]
        _, found, after = text.partition(self._marks.end)
        if not found:
            self._tail = text[max(0, len(text) - len(self._marks.end) + 1) :]
            return b""
        self._tail = b""
        self.is_thinking = False
        return after


class ThoughtBudget:
    """Ends a thought that has had its tokens, in the model's own way; see `TokenConstraint`.

    Args:
        inner: what the answer is held to besides, None where it is free.
        tracker: of the answer's thought.
        pieces: bytes of each token.
        closing: tokens that end a thought.
        budget: most tokens of it.
    """

    def __init__(
        self,
        inner: TokenConstraint | None,
        tracker: ThoughtTracker,
        pieces: Pieces,
        closing: Sequence[int],
        budget: int,
    ) -> None:
        self._inner = inner
        self._tracker = tracker
        self._pieces = pieces
        self._closing = list(closing)
        self._left = budget
        self._forced: list[int] = []
        if budget == 0 and tracker.is_thinking:
            self._forced = list(self._closing)

    @property
    def must_end(self) -> bool:
        """Whether what the answer is held to allows nothing more."""
        return self._inner is not None and self._inner.must_end

    def mask(self, logits: npt.NDArray[np.float32]) -> None:
        """Forbid what may not come next; all but one token while a thought is being ended."""
        if self._forced:
            wanted = logits[self._forced[0]]
            logits[:] = -np.inf
            logits[self._forced[0]] = wanted if np.isfinite(wanted) else 0.0
        elif self._inner is not None:
            self._inner.mask(logits)

    def accept(self, token: int) -> None:
        """Take the token that was sampled."""
        if self._inner is not None:
            self._inner.accept(token)
        was_thinking = self._tracker.is_thinking
        self._tracker.behind(self._pieces[token])
        if self._forced:
            self._forced.pop(0)
            return
        if was_thinking and self._tracker.is_thinking:
            self._left -= 1
        if self._tracker.is_thinking and self._left <= 0:
            self._forced = list(self._closing)


def with_thought_budget(
    make: Callable[[], TokenConstraint] | None,
    marks: ThoughtMarks,
    pieces: Pieces,
    closing: Sequence[int],
    budget: int,
) -> Callable[[], TokenConstraint]:
    """A maker of constraints that end thoughts too."""
    return lambda: ThoughtBudget(make() if make else None, ThoughtTracker(marks), pieces, closing, budget)
