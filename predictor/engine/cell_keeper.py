"""Carries out in llama.cpp's context what the prefix cache decided."""

from __future__ import annotations

import logging

from predictor.engine.cell_operations import CopyCells, RemoveCells, RestoreCells, SaveCells
from predictor.engine.host_cache import Prefix, SavedPrefix
from predictor.engine.llama import Context
from predictor.engine.prefix_cache import WORTH_SAVING_TOKENS
from predictor.engine.prefix_store import BadPrefixFileError
from predictor.engine.scheduler import Scheduler

logger = logging.getLogger(__name__)


class CellKeeper:
    """Copies, removes, saves and restores cells of sequences.

    Args:
        context: whose cells they are.
        scheduler: whose cache says what to do.
    """

    def __init__(self, context: Context, scheduler: Scheduler) -> None:
        self._context = context
        self._scheduler = scheduler

    def carry_out(self) -> None:
        """Do everything that must happen before the next decode, in order."""
        for operation in self._scheduler.cache.take_operations():
            match operation:
                case CopyCells(source, target, start, end):
                    self._context.copy(source, target, start, end)
                case RemoveCells(sequence_id, start, end):
                    self._context.remove(sequence_id, start, end)
                case SaveCells(sequence_id, tokens):
                    self._save(sequence_id, tokens)
                case RestoreCells(sequence_id, saved, length):
                    self._restore(sequence_id, saved, length)

    def prefixes(self) -> list[Prefix]:
        """Everything that later requests could reuse, the most recently used first."""
        self.carry_out()
        retained = [
            SavedPrefix(saving.tokens, self._context.save(saving.sequence_id))
            for saving in self._scheduler.cache.retained()
        ]
        return [*reversed(retained), *reversed(list(self._scheduler.host))]

    def _save(self, sequence_id: int, tokens: list[int]) -> None:
        host = self._scheduler.host
        known, shared = host.match(tokens)
        if known is not None and len(tokens) - shared < WORTH_SAVING_TOKENS:
            host.touch(known)
        else:
            host.add(SavedPrefix(tokens, self._context.save(sequence_id)))

    def _restore(self, sequence_id: int, saved: Prefix, length: int) -> None:
        try:
            if self._context.restore(sequence_id, saved.read()):
                self._context.remove(sequence_id, length)
                return
            reason = "llama.cpp refuses it"
        except BadPrefixFileError as error:
            reason = str(error)
        logger.warning("a saved prefix of %d tokens is computed again: %s", len(saved.tokens), reason)
        self._scheduler.host.discard(saved)
        self._scheduler.restart(sequence_id)
