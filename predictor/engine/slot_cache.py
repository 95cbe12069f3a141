"""A KV cache in slots: every sequence has cells of its own, and attention looks at no others.

One pool for all sequences is the flexible way: any of them may grow, and a shared beginning is stored once.
But each token's attention then passes over the cells of every sequence, which costs about a tenth of the
speed with 16 of them. Where each may have its full length anyhow, slots cost no memory more and none of that.
A shared beginning is copied from slot to slot, about a hundred times faster than it is computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from predictor.engine.cell_operations import DuplicateCells, Operation, RemoveCells, SaveCells
from predictor.engine.kv_cache import Match
from predictor.engine.prefix_cache import WORTH_SAVING_TOKENS
from predictor.engine.radix_tree import common_prefix

# Fewer are computed again in about the time that copying them takes.
WORTH_COPYING_TOKENS = 16


@dataclass(slots=True)
class _Slot:
    """One sequence id.

    Attributes:
        tokens: those that have cells.
        running: whether a sequence uses it; otherwise its cells wait for a later one.
        adapter: which adapter computed the cells.
    """

    id: int
    tokens: list[int] = field(default_factory=list)
    running: bool = False
    adapter: str | None = None


class SlotCache:
    """Slots, and which tokens lie in which; the same face as `PrefixCache`.

    llama.cpp computes neighbouring slots together and others one after the other. So sequences take the
    lowest slot that is free, and those of an adapter, which share no batch with others, the lowest from its
    own on.

    Args:
        slots: sequences that run at once.
        slot_cells: most tokens of each.
        save: whether what a slot held is to be saved first when it is taken, where that is worth it.
        adapters: names of all that sequences may use.
    """

    def __init__(
        self, slots: int, slot_cells: int, *, save: bool = False, adapters: Sequence[str] = ()
    ) -> None:
        self.capacity = slots * slot_cells
        self.can_restore = save
        self.reuses = True
        self.queried_tokens = 0
        self.hit_tokens = 0
        self._slot_cells = slot_cells
        self._slots = [_Slot(number) for number in range(slots)]
        users = (None, *adapters)
        self._first = {user: number * slots // len(users) for number, user in enumerate(users)}
        self._operations: list[Operation] = []

    @property
    def used(self) -> int:
        """Cells with tokens in them."""
        return sum(len(slot.tokens) for slot in self._slots)

    @property
    def pinned(self) -> int:
        """Cells of running sequences."""
        return sum(len(slot.tokens) for slot in self._slots if slot.running)

    def take_operations(self) -> list[Operation]:
        """What llama.cpp must do, in this order, before the next decode."""
        operations, self._operations = self._operations, []
        return operations

    def lookup(self, tokens: Sequence[int], adapter: str | None = None) -> Match:
        """The longest cached beginning: all tokens but the last at most, whose logits must be computed
        anyway. Cells that one adapter computed are never found for another."""
        limit = max(0, len(tokens) - 1)
        target = self._lowest_free(adapter)
        if target is None:
            return Match(None, 0, adapter)
        best, length = target, 0
        if target.adapter == adapter:
            length = common_prefix(target.tokens, tokens[:limit])
        for slot in self._slots:
            if slot is not target and slot.adapter == adapter:
                shared = common_prefix(slot.tokens, tokens[:limit])
                if shared >= length + WORTH_COPYING_TOKENS:
                    best, length = slot, shared
        return Match(best, length, adapter)

    def newly_pinned(self, match: Match) -> int:
        """How many cells `start` would pin: copies are cells too."""
        return match.length

    def start(self, tokens: Sequence[int], match: Match) -> int | None:
        """Give a running sequence a slot and the longest beginning of its tokens that lies in any.

        Args:
            tokens: of the sequence.
            match: what `lookup` just said of them.

        Returns:
            The slot; None when all are taken.
        """
        target = self._lowest_free(match.adapter)
        if target is None:
            return None
        source: _Slot = match.place
        self._clear(target, keep=match.length if source is target else 0)
        if source is not target:
            self._operations.append(DuplicateCells(source.id, target.id, match.length))
            target.tokens = list(tokens[: match.length])
        target.running, target.adapter = True, match.adapter
        self._count(tokens, match.length)
        return target.id

    def start_empty(self, cells: int, adapter: str | None = None) -> int | None:
        """Give a running sequence an empty slot; None when all are taken or too small for `cells`."""
        target = self._lowest_free(adapter)
        if target is None or cells > self._slot_cells:
            return None
        self._clear(target, keep=0)
        target.running, target.adapter = True, adapter
        return target.id

    def restored(self, sequence_id: int, tokens: Sequence[int], length: int) -> None:
        """Record that a sequence started empty got cells for its first `length` tokens from elsewhere."""
        self._slots[sequence_id].tokens = list(tokens[:length])
        self._count(tokens, length)

    def extend(self, sequence_id: int, tokens: Sequence[int]) -> None:
        """Record that a running sequence computed more tokens."""
        self._slots[sequence_id].tokens.extend(tokens)

    def make_room(self, cells: int) -> bool:
        """Nothing to do: every running sequence has all the cells that it may need."""
        return True

    def retained(self) -> Iterator[SaveCells]:
        """What is worth saving of the slots that no sequence uses."""
        for slot in self._slots:
            if not slot.running:
                yield from self._saving(slot, kept=0)

    def finish(self, sequence_id: int, *, retain: bool = True) -> None:
        """A sequence runs no more: what it computed stays until its slot is taken."""
        slot = self._slots[sequence_id]
        slot.running = False
        if not retain:
            self._drop(slot, keep=0)

    def _lowest_free(self, adapter: str | None) -> _Slot | None:
        first = self._first.get(adapter, 0)
        slots = (*self._slots[first:], *self._slots[:first])
        return next((slot for slot in slots if not slot.running), None)

    def _clear(self, slot: _Slot, *, keep: int) -> None:
        """Let go of all but the first `keep` tokens of a slot, saved where that is worth it."""
        self._operations.extend(self._saving(slot, kept=keep))
        self._drop(slot, keep=keep)

    def _drop(self, slot: _Slot, *, keep: int) -> None:
        if len(slot.tokens) > keep:
            self._operations.append(RemoveCells(slot.id, keep))
        del slot.tokens[keep:]

    def _saving(self, slot: _Slot, *, kept: int) -> Iterator[SaveCells]:
        others = (other for other in self._slots if other is not slot and other.adapter == slot.adapter)
        known = max([kept, *(common_prefix(slot.tokens, other.tokens) for other in others)])
        if self.can_restore and len(slot.tokens) - known >= WORTH_SAVING_TOKENS:
            yield SaveCells(slot.id, list(slot.tokens), slot.adapter)

    def _count(self, tokens: Sequence[int], hits: int) -> None:
        self.queried_tokens += len(tokens)
        self.hit_tokens += hits
