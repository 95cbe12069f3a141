"""What the scheduler asks of a KV cache, whichever way its cells are laid out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from predictor.engine.cell_operations import Operation, SaveCells
from predictor.engine.host_cache import Prefix


@dataclass(frozen=True, slots=True)
class Match:
    """The longest cached beginning of some tokens, until the cache changes.

    Attributes:
        place: where the cache has it; its own business.
        length: how many tokens it has.
        adapter: which adapter computed it, None for the model alone.
        point: what can't be cut, as it was behind these tokens; None where that isn't needed.
        shared: the longest beginning that has cells, whether or not a sequence can go on from there.
    """

    place: Any
    length: int
    adapter: str | None = None
    point: Prefix | None = None
    shared: int = 0


class KVCache(Protocol):
    """Gives running sequences ids and cells, and keeps what finished ones computed; pure bookkeeping.

    Attributes:
        queried_tokens, hit_tokens: prompt tokens looked up and found since the start.
    """

    queried_tokens: int
    hit_tokens: int

    @property
    def reuses(self) -> bool:
        """Whether a sequence can take cells of another over."""

    @property
    def capacity(self) -> int:
        """Cells in all."""

    @property
    def used(self) -> int:
        """Cells with tokens in them."""

    @property
    def pinned(self) -> int:
        """Cells of running sequences."""

    def take_operations(self) -> list[Operation]:
        """What llama.cpp must do, in this order, before the next decode."""

    def lookup(self, tokens: Sequence[int], adapter: str | None = None) -> Match:
        """The longest cached beginning: all tokens but the last at most, whose logits must be computed
        anyway. Cells that one adapter computed are never found for another."""

    def newly_pinned(self, match: Match) -> int:
        """How many cells `start` would pin that nobody running holds now."""

    def start(self, tokens: Sequence[int], match: Match) -> int | None:
        """Give a running sequence an id and the cells of its longest cached beginning.

        Args:
            tokens: of the sequence.
            match: what `lookup` just said of them; nothing was started, ended or evicted since.

        Returns:
            The id; None when none can be had.
        """

    def start_empty(self, cells: int, adapter: str | None = None) -> int | None:
        """Give a running sequence an id and room for so many cells; None when either can't be had."""

    def restored(self, sequence_id: int, tokens: Sequence[int], length: int) -> None:
        """Record that a sequence started empty got cells for its first `length` tokens from elsewhere."""

    def extend(self, sequence_id: int, tokens: Sequence[int]) -> None:
        """Record that a running sequence computed more tokens."""

    def make_room(self, cells: int) -> bool:
        """Free so many cells for the running sequences; False when they alone leave too little."""

    def retained(self) -> Iterator[SaveCells]:
        """What is worth saving of finished sequences, the longest unused first."""

    def finish(self, sequence_id: int, *, retain: bool = True) -> None:
        """A sequence runs no more; `retain` keeps its cells for later ones with the same beginning."""
