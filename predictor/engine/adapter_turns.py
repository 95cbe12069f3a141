"""Whose turn it is: llama.cpp applies one adapter to a whole decode, so a batch is of one adapter."""

from __future__ import annotations

from collections.abc import Sequence as Collection

from predictor.engine.sequence import Sequence


class AdapterTurns:
    """Takes adapters in turn: each with running sequences gets one batch before any gets its next."""

    def __init__(self) -> None:
        self._last_turn: dict[str | None, int] = {}
        self._turn = 0

    def take(self, running: Collection[Sequence]) -> list[Sequence]:
        """The sequences for the next batch: those of the adapter that has waited longest."""
        if not running:
            return []
        waited_longest = min((s.adapter for s in running), key=lambda a: self._last_turn.get(a, 0))
        self._turn += 1
        self._last_turn[waited_longest] = self._turn
        return [s for s in running if s.adapter == waited_longest]
