"""A KV cache in slots: every sequence has cells of its own.

One pool for all sequences is the flexible way: any of them may grow, and a shared beginning is stored once.
But each token's attention then passes over the cells of every sequence, which costs about a tenth of the
speed with 16 of them. Where each may have its full length anyhow, slots cost no memory more and none of that.
A shared beginning is copied from slot to slot, about a hundred times faster than it is computed.

Models whose past can't be cut anywhere have slots too where memory for each sequence's full length is
missing: then all slots take their cells from one pool, and what only waits for a later sequence makes room.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from predictor.engine.cell_operations import CutCells, DuplicateCells, Operation, RemoveCells, SaveCells
from predictor.engine.host_cache import Prefix
from predictor.engine.kv_cache import Match
from predictor.engine.past import Past
from predictor.engine.prefix_cache import WORTH_SAVING_TOKENS
from predictor.engine.radix_tree import common_prefix

# Fewer are computed again in about the time that copying them takes.
WORTH_COPYING_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Cuts:
    """Where the sequences of a model can be cut.

    Attributes:
        past: of the model.
        least_length: the shortest beginning that a sequence id's cells can be cut to.
        point: what can't be cut, behind the longest beginning of some tokens, at most so many; of an adapter.
    """

    past: Past = Past.ALL
    least_length: Callable[[int], int] = lambda _sequence_id: 0
    point: Callable[[Sequence[int], int, str | None], Prefix | None] = lambda _tokens, _most, _adapter: None


@dataclass(slots=True, eq=False)
class _Slot:
    """One sequence id.

    Attributes:
        tokens: those that have cells.
        running: whether a sequence uses it; otherwise its cells wait for a later one.
        adapter: which adapter computed the cells.
        used: when it was used last, by the order of such events.
        pending: whether llama.cpp has still to do something to its cells.
    """

    id: int
    tokens: list[int] = field(default_factory=list)
    running: bool = False
    adapter: str | None = None
    used: int = 0
    pending: bool = False


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the longest beginning lies, and where the sequence goes."""

    source: _Slot
    target: _Slot


class SlotCache:
    """Slots, and which tokens lie in which; the same face as `PrefixCache`.

    llama.cpp computes neighbouring slots together and others one after the other. So a sequence goes on where
    its beginning lies only if that makes no further group of neighbours; else it gets a copy beside the
    others. Adapters, whose sequences share no batch with others, begin at places of their own.

    Args:
        slots: sequences that run at once.
        slot_cells: most tokens of each.
        pool: cells that all slots share; None where each has its own.
        save: whether what a slot held is to be saved first when it is taken, where that is worth it.
        adapters: names of all that sequences may use.
        cuts: where sequences can be cut.
    """

    def __init__(
        self,
        slots: int,
        slot_cells: int,
        *,
        pool: int | None = None,
        save: bool = False,
        adapters: Sequence[str] = (),
        cuts: Cuts = Cuts(),
    ) -> None:
        self.capacity = slots * slot_cells if pool is None else pool
        self.can_restore = save
        self.reuses = True
        self.queried_tokens = 0
        self.hit_tokens = 0
        self._slot_cells = slot_cells
        self._in_pool = pool is not None
        self._cuts = cuts
        self._slots = [_Slot(number) for number in range(slots)]
        users = (None, *adapters)
        self._first = {user: number * slots // len(users) for number, user in enumerate(users)}
        self._operations: list[Operation] = []
        self._clock = 0

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
        for slot in self._slots:
            slot.pending = False
        return operations

    def lookup(self, tokens: Sequence[int], adapter: str | None = None) -> Match:
        """The longest cached beginning: all tokens but the last at most, whose logits must be computed
        anyway. Cells that one adapter computed are never found for another."""
        free = self._free_places(adapter)
        if not free:
            return Match(None, 0, adapter)
        wanted = tokens[: max(0, len(tokens) - 1)]
        best = target = free[0]
        length, point, longest = 0, None, 0
        # Where the sequence can go without a copy comes first.
        for slot in (*free, *(slot for slot in self._slots if slot not in free)):
            if slot.adapter != adapter:
                continue
            shared = common_prefix(slot.tokens, wanted)
            longest = max(longest, shared)
            in_place = slot in free
            worth = length if in_place or not length else length + WORTH_COPYING_TOKENS - 1
            if shared > worth and (in_place or shared >= WORTH_COPYING_TOKENS):
                usable, its_point = self._usable(slot, shared, wanted, in_place=in_place)
                if usable > worth and (in_place or usable >= WORTH_COPYING_TOKENS):
                    best, length, point = slot, usable, its_point
                    target = slot if in_place else free[0]
        return Match(_Place(best, target), length, adapter, point, longest)

    def newly_pinned(self, match: Match) -> int:
        """How many cells `start` would pin: copies are cells too."""
        return match.length

    def start(self, tokens: Sequence[int], match: Match) -> int | None:
        """Give a running sequence a slot and the longest beginning of its tokens that lies in any.

        Args:
            tokens: of the sequence.
            match: what `lookup` just said of them.

        Returns:
            The slot; None when all are taken, or there is no room for a copy.
        """
        place: _Place | None = match.place
        if place is None:
            return None
        source, target = place.source, place.target
        if source is target:
            if match.point is None:
                self._clear(target, keep=match.length)
            else:
                self._cut(target, match.length, match.point)
        else:
            self._clear(target, keep=0)
            # All of the source is copied, and the copy cut.
            if not self._make_room(len(source.tokens), spare=source):
                return None
            self._operations.append(DuplicateCells(source.id, target.id, match.length, match.point))
            target.tokens = list(tokens[: match.length])
            target.pending = True
        self._take(target, match.adapter)
        self._count(tokens, match.length)
        return target.id

    def start_empty(self, cells: int, adapter: str | None = None) -> int | None:
        """Give a running sequence an empty slot; None when all are taken or too small for `cells`."""
        free = self._free_places(adapter)
        if not free or cells > self._slot_cells:
            return None
        self._clear(free[0], keep=0)
        if not self._make_room(cells):
            return None
        self._take(free[0], adapter)
        return free[0].id

    def restored(self, sequence_id: int, tokens: Sequence[int], length: int) -> None:
        """Record that a sequence started empty got cells for its first `length` tokens from elsewhere."""
        self._slots[sequence_id].tokens = list(tokens[:length])
        self._count(tokens, length)

    def extend(self, sequence_id: int, tokens: Sequence[int]) -> None:
        """Record that a running sequence computed more tokens."""
        self._slots[sequence_id].tokens.extend(tokens)

    def make_room(self, cells: int) -> bool:
        """Free so many cells for the running sequences; with cells of their own they have all they need."""
        return self._make_room(cells)

    def retained(self) -> Iterator[SaveCells]:
        """What is worth saving of the slots that no sequence uses, the longest unused first."""
        for slot in sorted(self._slots, key=lambda slot: slot.used):
            if not slot.running:
                yield from self._saving(slot, kept=0)

    def finish(self, sequence_id: int, *, retain: bool = True) -> None:
        """A sequence runs no more: what it computed stays until its slot is taken."""
        slot = self._slots[sequence_id]
        slot.running = False
        self._touch(slot)
        if not retain:
            self._drop(slot, keep=0)

    def _free_places(self, adapter: str | None) -> list[_Slot]:
        """Slots in which a sequence can run beside the others of its adapter; those first whose cells would
        be missed least."""
        free = [slot for slot in self._slots if not slot.running]
        if not self._in_pool and free:
            running = {slot.id for slot in self._slots if slot.running and slot.adapter == adapter}
            groups = {slot: _groups(running | {slot.id}) for slot in free}
            fewest = min(groups.values())
            free = [slot for slot in free if groups[slot] == fewest]
        first = self._first.get(adapter, 0)
        turn = len(self._slots)
        return sorted(free, key=lambda slot: (slot.used if slot.tokens else 0, (slot.id - first) % turn))

    def _usable(
        self, slot: _Slot, shared: int, tokens: Sequence[int], *, in_place: bool
    ) -> tuple[int, Prefix | None]:
        """How many of the shared tokens a sequence can go on from, and what has to be restored for it."""
        past = self._cuts.past
        if past is Past.ALL:
            return shared, None
        least = past.least_saved(len(slot.tokens))
        if in_place and not slot.pending:
            least = self._cuts.least_length(slot.id)
        if shared >= least:
            return shared, None
        point = self._cuts.point(tokens, shared, slot.adapter)
        return (0, None) if point is None else (len(point.tokens), point)

    def _take(self, slot: _Slot, adapter: str | None) -> None:
        slot.running, slot.adapter = True, adapter
        self._touch(slot)

    def _touch(self, slot: _Slot) -> None:
        self._clock += 1
        slot.used = self._clock

    def _make_room(self, cells: int, spare: _Slot | None = None) -> bool:
        """Empty slots that no sequence uses, the longest unused first, until the pool has so many cells."""
        if not self._in_pool:
            return True
        for slot in sorted(self._slots, key=lambda slot: slot.used):
            if self.capacity - self.used >= cells:
                break
            if not slot.running and slot is not spare:
                self._clear(slot, keep=0)
        return self.capacity - self.used >= cells

    def _cut(self, slot: _Slot, length: int, point: Prefix) -> None:
        """Take a slot back to where what can't be cut was kept."""
        self._operations.extend(self._saving(slot, kept=length))
        self._operations.append(CutCells(slot.id, length, point))
        del slot.tokens[length:]
        slot.pending = True

    def _clear(self, slot: _Slot, *, keep: int) -> None:
        """Let go of all but the first `keep` tokens of a slot, saved where that is worth it."""
        self._operations.extend(self._saving(slot, kept=keep))
        self._drop(slot, keep=keep)

    def _drop(self, slot: _Slot, *, keep: int) -> None:
        if len(slot.tokens) > keep:
            self._operations.append(RemoveCells(slot.id, keep))
            slot.pending = True
        del slot.tokens[keep:]

    def _saving(self, slot: _Slot, *, kept: int) -> Iterator[SaveCells]:
        known = kept
        if self._cuts.past is Past.ALL:  # then any other that holds it will do
            others = (other for other in self._slots if other is not slot and other.adapter == slot.adapter)
            known = max([kept, *(common_prefix(slot.tokens, other.tokens) for other in others)])
        if self.can_restore and len(slot.tokens) - known >= WORTH_SAVING_TOKENS:
            yield SaveCells(slot.id, list(slot.tokens), slot.adapter)

    def _count(self, tokens: Sequence[int], hits: int) -> None:
        self.queried_tokens += len(tokens)
        self.hit_tokens += hits


def _groups(ids: set[int]) -> int:
    """How many runs of neighbouring numbers there are."""
    return sum(number - 1 not in ids for number in ids)
