"""Carries out in llama.cpp's context what the prefix cache decided."""

from __future__ import annotations

import logging

from predictor.engine.cell_operations import CopyCells, RemoveCells, SaveCells
from predictor.engine.host_cache import HostCache, Prefix, SavedPrefix
from predictor.engine.llama import Context
from predictor.engine.prefix_cache import WORTH_SAVING_TOKENS, PrefixCache
from predictor.engine.prefix_store import BadPrefixFileError

logger = logging.getLogger(__name__)


class CellKeeper:
    """Copies, removes, saves and restores cells of sequences.

    Args:
        context: whose cells they are.
        cache: says what to do.
        host: takes what is saved.
    """

    def __init__(self, context: Context, cache: PrefixCache, host: HostCache) -> None:
        self._context = context
        self._cache = cache
        self._host = host

    def carry_out(self) -> None:
        """Do everything that must happen before the next decode, in order."""
        for operation in self._cache.take_operations():
            match operation:
                case CopyCells(source, target, start, end):
                    self._context.copy(source, target, start, end)
                case RemoveCells(sequence_id, start, end):
                    self._context.remove(sequence_id, start, end)
                case SaveCells(sequence_id, tokens):
                    self._save(sequence_id, tokens)

    def restore(self, sequence_id: int, saved: Prefix, length: int) -> bool:
        """Give a sequence without cells the first `length` of a saved prefix; False where that fails."""
        self.carry_out()
        try:
            if self._context.restore(sequence_id, saved.read()):
                self._context.remove(sequence_id, length)
                return True
            reason = "llama.cpp refuses it"
        except BadPrefixFileError as error:
            reason = str(error)
        logger.warning("a saved prefix of %d tokens is computed again: %s", len(saved.tokens), reason)
        return False

    def prefixes(self) -> list[Prefix]:
        """Everything that later requests could reuse, the most recently used first."""
        self.carry_out()
        retained = [
            SavedPrefix(saving.tokens, self._context.save(saving.sequence_id))
            for saving in self._cache.retained()
        ]
        return [*reversed(retained), *reversed(list(self._host))]

    def _save(self, sequence_id: int, tokens: list[int]) -> None:
        known, shared = self._host.match(tokens)
        if known is not None and len(tokens) - shared < WORTH_SAVING_TOKENS:
            self._host.touch(known)
        else:
            self._host.add(SavedPrefix(tokens, self._context.save(sequence_id)))
