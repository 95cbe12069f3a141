"""Guesses from the text so far: what followed the last time these tokens stood there.

Prompt lookup (Saxena, 2023) helps where answers quote their prompt, as in summaries, code edits and answers
from given passages, and needs no second model.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from weakref import WeakKeyDictionary

from predictor.engine.sequence import Sequence

# Longer ones are rarer and right more often; they are tried first.
NGRAM_TOKENS = (4, 3, 2)


class _Index:
    """Where each n-gram of a growing text ended last."""

    def __init__(self) -> None:
        self._read = 0
        self._ends: dict[tuple[int, ...], int] = {}

    def continuation(self, tokens: list[int], count: int) -> list[int]:
        """What followed the latest earlier place of the last tokens."""
        self._extend(tokens)
        for length in NGRAM_TOKENS:
            end = self._ends.get(tuple(tokens[-length:]))
            if end is not None:
                return tokens[end : end + count]
        return []

    def _extend(self, tokens: list[int]) -> None:
        """Take in all n-grams but those at the very end, which would only find themselves."""
        for end in range(self._read + 1, len(tokens)):
            for length in NGRAM_TOKENS:
                if end >= length:
                    self._ends[tuple(tokens[end - length : end])] = end
        self._read = max(self._read, len(tokens) - 1)


class NgramDrafter:
    """Looks guesses up in each sequence's own tokens; no other sequence's are ever seen."""

    def __init__(self) -> None:
        self._indexes: WeakKeyDictionary[Sequence, _Index] = WeakKeyDictionary()

    def reading_seconds(self, _sequence: Sequence) -> float:
        """See `Drafter`."""
        return 0.0

    def forget(self) -> None:
        """See `Drafter`."""
        self._indexes.clear()

    def prepare(
        self, _sequences: Collection[Sequence], _running: Collection[Sequence], _seconds: float
    ) -> None:
        """See `Drafter`."""

    def propose(self, wanted: Mapping[Sequence, int]) -> dict[Sequence, list[int]]:
        """See `Drafter`."""
        found = {}
        for sequence, count in wanted.items():
            index = self._indexes.get(sequence)
            if index is None:
                index = self._indexes[sequence] = _Index()
            if tokens := index.continuation(sequence.tokens, count):
                found[sequence] = tokens
        return found

    def close(self) -> None:
        """Nothing to free."""
