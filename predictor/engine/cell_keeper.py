"""Carries out in llama.cpp's context what the prefix cache decided."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Collection

import numpy as np
import numpy.typing as npt

from predictor.engine.cell_operations import CopyCells, DuplicateCells, RemoveCells, SaveCells
from predictor.engine.host_cache import HostCache, Prefix, SavedPrefix
from predictor.engine.kv_cache import KVCache
from predictor.engine.llama import Context
from predictor.engine.prefix_cache import WORTH_SAVING_TOKENS
from predictor.engine.prefix_file import BadPrefixFileError, StoredBefore

logger = logging.getLogger(__name__)


class CellKeeper:
    """Copies, removes, saves and restores cells of sequences.

    Args:
        context: whose cells they are.
        cache: says what to do.
        host: takes what is saved.
    """

    def __init__(self, context: Context, cache: KVCache, host: HostCache) -> None:
        self._context = context
        self._cache = cache
        self._host = host
        # Many sequences may take one beginning over at once, which need be read only once.
        self._read: dict[int, npt.NDArray[np.uint8]] = {}
        self._lost: set[int] = set()

    def carry_out(self) -> None:
        """Do everything that must happen before the next decode, in order."""
        for operation in self._cache.take_operations():
            match operation:
                case CopyCells(source, target, start, end):
                    self._context.copy(source, target, start, end)
                case DuplicateCells(source, target, length):
                    if not self._duplicate(source, target, length):
                        self._lost.add(target)
                case RemoveCells(sequence_id, start, end):
                    self._read.pop(sequence_id, None)
                    self._context.remove(sequence_id, start, end)
                case SaveCells():
                    self._save(operation)
        self._read.clear()

    def take_lost(self) -> set[int]:
        """Do what there is to do; the sequences that have no cells since, as copying them failed."""
        self.carry_out()
        lost, self._lost = self._lost, set()
        return lost

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
        saved.drop()
        return False

    def prefixes(self, is_stored: Callable[[Collection[int], str | None], bool]) -> Iterator[Prefix]:
        """Everything that later requests could reuse, the most recently used first.

        One at a time, so that no more than one copy is in memory: cells are copied when their turn comes, and
        what has gone by then is left out.

        Args:
            is_stored: whether a prefix is on disk already, so that nothing need be copied.
        """
        for saving in reversed(list(self._cache.retained())):
            if is_stored(saving.tokens, saving.adapter):
                yield StoredBefore(saving.tokens, saving.adapter)
            elif saving in self._cache.retained():
                self.carry_out()
                yield SavedPrefix(saving.tokens, self._context.save(saving.sequence_id), saving.adapter)
        offered: set[int] = set()
        while entries := [prefix for prefix in self._host if id(prefix) not in offered]:
            offered.add(id(entries[-1]))
            yield entries.pop()

    def _duplicate(self, source: int, target: int, length: int) -> bool:
        if source in self._lost:
            return False
        try:
            state = self._read.get(source)
            if state is None:
                state = self._read[source] = self._context.save(source)
            if self._context.restore(target, state):
                self._context.remove(target, length)
                return True
            reason = "llama.cpp refuses them"
        except Exception as error:  # most likely there is no memory for the copy
            reason = repr(error)
        logger.warning("cells of %d tokens could not be copied, they are computed again: %s", length, reason)
        return False

    def _save(self, saving: SaveCells) -> None:
        known, shared = self._host.match(saving.tokens, saving.adapter)
        if known is not None and len(saving.tokens) - shared < WORTH_SAVING_TOKENS:
            self._host.touch(known)
            return
        try:
            state = self._context.save(saving.sequence_id)
        except Exception as error:
            logger.warning("a prefix of %d tokens is forgotten, not saved: %r", len(saving.tokens), error)
            return
        self._host.add(SavedPrefix(saving.tokens, state, saving.adapter))
