"""What every reader of answers offers, whatever the model's form."""

from __future__ import annotations

from typing import Protocol

from predictor.chat.events import Event


class AnswerReader(Protocol):
    """Turns the text of one answer into events.

    Attributes:
        calls: how many calls have been read to their end.
        is_thinking: whether what comes next belongs to a thought, as far as it is known.
    """

    @property
    def calls(self) -> int: ...

    @property
    def is_thinking(self) -> bool: ...

    def push(self, text: str) -> list[Event]:
        """Take the next piece of the answer."""

    def finish(self) -> list[Event]:
        """End the answer: what was held back for a mark that never came."""
