"""Carries out in llama.cpp's context what the prefix cache decided."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Collection

import numpy as np
import numpy.typing as npt

from predictor.engine.cell_operations import (
    CopyCells,
    CutCells,
    DuplicateCells,
    RemoveCells,
    SaveCells,
)
from predictor.engine.host_cache import HostCache, Prefix, SavedPrefix
from predictor.engine.kv_cache import KVCache
from predictor.engine.llama import Context
from predictor.engine.past import Past
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
                case DuplicateCells(source, target, length, point):
                    if not self._duplicate(source, target, length, point):
                        self._lost.add(target)
                case CutCells(sequence_id, length, point):
                    self._read.pop(sequence_id, None)
                    if not self._cut_alone(sequence_id, length, point):
                        self._lost.add(sequence_id)
                case RemoveCells(sequence_id, start, end):
                    self._read.pop(sequence_id, None)
                    if not self._context.remove(sequence_id, start, end):
                        self._context.remove(sequence_id)
                        self._lost.add(sequence_id)
                case SaveCells():
                    self._save(operation)
        self._read.clear()

    def take_lost(self) -> set[int]:
        """Do what there is to do; the sequences that have no cells since, as copying them failed."""
        self.carry_out()
        lost, self._lost = self._lost, set()
        return lost

    def restore(self, sequence_id: int, saved: Prefix, length: int, point: Prefix | None = None) -> bool:
        """Give a sequence without cells the first `length` of a saved prefix; False where that fails.

        Args:
            sequence_id: whose.
            saved: all of it is restored, then cut.
            length: to so many tokens.
            point: what can't be cut, as it was behind them; None where it can be cut there.
        """
        self.carry_out()
        try:
            if self._context.restore(sequence_id, saved.read()):
                if self._cut(sequence_id, length, point):
                    return True
                self._context.remove(sequence_id)
            reason = "llama.cpp refuses it"
        except BadPrefixFileError as error:
            self._context.remove(sequence_id)
            reason = str(error)
        logger.warning("a saved prefix of %d tokens is computed again: %s", len(saved.tokens), reason)
        for broken in (saved, point):
            if broken is not None:
                self._host.discard(broken)
                broken.drop()
        return False

    def keep_point(self, sequence_id: int, tokens: list[int], adapter: str | None) -> None:
        """Keep what can't be cut of a sequence, as it is behind all of its tokens that are computed."""
        partial = self._host.past is not Past.STATE
        known = self._host.point(tokens, len(tokens), adapter)
        if known is not None and len(known.tokens) == len(tokens):
            self._host.touch(known)
            return
        try:
            state = self._context.save(sequence_id, partial=partial)
        except Exception as error:
            logger.warning("the state behind %d tokens is not kept: %r", len(tokens), error)
            return
        self._host.add(SavedPrefix(tokens, state, adapter, partial))

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

    def _duplicate(self, source: int, target: int, length: int, point: Prefix | None) -> bool:
        if source in self._lost:
            return False
        try:
            state = self._read.get(source)
            if state is None:
                state = self._read[source] = self._context.save(source)
            if self._context.restore(target, state) and self._cut(target, length, point):
                return True
            reason = "llama.cpp refuses them"
        except Exception as error:  # most likely there is no memory for the copy
            reason = repr(error)
        self._context.remove(target)
        logger.warning("cells of %d tokens could not be copied, they are computed again: %s", length, reason)
        return False

    def _cut(self, sequence_id: int, length: int, point: Prefix | None) -> bool:
        """Take a sequence back to its first `length` tokens; False where it may have lost all since.

        Raises:
            BadPrefixFileError: what can't be cut was in a file that is gone or damaged.
        """
        if point is not None:
            self._host.touch(point)
            if not self._context.restore(sequence_id, point.read(), partial=True):
                return False
        return self._context.remove(sequence_id, length)

    def _cut_alone(self, sequence_id: int, length: int, point: Prefix) -> bool:
        try:
            if self._cut(sequence_id, length, point):
                return True
            reason = "llama.cpp refuses it"
        except BadPrefixFileError as error:
            reason = str(error)
        self._context.remove(sequence_id)
        self._host.discard(point)
        logger.warning("a sequence of %d tokens is computed again: %s", length, reason)
        return False

    def _save(self, saving: SaveCells) -> None:
        found = self._host.match(saving.tokens, saving.adapter)
        if found.prefix is not None and len(saving.tokens) - found.length < WORTH_SAVING_TOKENS:
            self._host.touch(found.prefix)
            return
        try:
            state = self._context.save(saving.sequence_id)
        except Exception as error:
            logger.warning("a prefix of %d tokens is forgotten, not saved: %r", len(saving.tokens), error)
            return
        self._host.add(SavedPrefix(saving.tokens, state, saving.adapter))
