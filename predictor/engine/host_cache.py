"""KV state of prefixes in ordinary memory: slower to take over than cells, but it slows no decode down.

llama.cpp's attention looks at every cell in use, also at those of other sequences, so cells that only wait
for a later request cost every running one. Saving or restoring a state costs about as much as copying its
bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from predictor.engine.past import Past
from predictor.engine.radix_tree import common_prefix


class Prefix(Protocol):
    """A prefix that has lost its cells, wherever its state is."""

    @property
    def tokens(self) -> list[int]:
        """From position 0 on."""

    @property
    def adapter(self) -> str | None:
        """Which adapter computed it."""

    @property
    def partial(self) -> bool:
        """Whether the state is only what can't be cut, behind the last token; attention's cells come from
        elsewhere."""

    @property
    def memory_bytes(self) -> int:
        """How much memory forgetting it would free."""

    def read(self) -> npt.NDArray[np.uint8]:
        """The state, in llama.cpp's own format."""

    def drop(self) -> None:
        """It can't be used: let nobody find it again."""


@dataclass(frozen=True, slots=True, eq=False)
class SavedPrefix:
    """Tokens and what llama.cpp computed for them.

    Attributes:
        tokens: from position 0 on.
        state: llama.cpp's own format, readable by a context of the same model and parameters.
        adapter: which adapter computed it, None for the model alone.
        partial: see `Prefix`.
    """

    tokens: list[int]
    state: npt.NDArray[np.uint8]
    adapter: str | None = None
    partial: bool = False

    @property
    def memory_bytes(self) -> int:
        """Size of the state."""
        return self.state.nbytes

    def read(self) -> npt.NDArray[np.uint8]:
        """The state."""
        return self.state

    def drop(self) -> None:
        """Nothing: it is nowhere but in memory."""


@dataclass(frozen=True, slots=True)
class Found:
    """What the host cache has of some tokens.

    Attributes:
        prefix: the entry to begin with; None where there is none.
        length: how many of the tokens a sequence has afterwards.
        point: what can't be cut, as it was behind these tokens; None where the entry needs none.
        shared: the longest beginning that any entry has, whether or not a sequence can go on from there.
    """

    prefix: Prefix | None = None
    length: int = 0
    point: Prefix | None = None
    shared: int = 0


class HostCache:
    """Saved prefixes, the longest unused of which goes first when memory runs out.

    Args:
        max_bytes: most bytes of state in memory; 0 saves nothing.
        past: where they can be cut.
    """

    def __init__(self, max_bytes: int, past: Past = Past.ALL) -> None:
        self.max_bytes = max_bytes
        self.past = past
        self.used_bytes = 0
        self._entries: dict[int, Prefix] = {}

    def __iter__(self) -> Iterator[Prefix]:
        """All entries, the longest unused first."""
        return iter(self._entries.values())

    def add(self, saved: Prefix) -> None:
        """Keep an entry; those that it replaces go, but none on disk for one in memory, which may go soon."""
        if saved.memory_bytes > self.max_bytes:
            return
        for other in list(self):
            if (saved.memory_bytes and not other.memory_bytes) or not self._replaces(saved, other):
                continue
            self.discard(other)
        self._entries[id(saved)] = saved
        self.used_bytes += saved.memory_bytes
        while self.used_bytes > self.max_bytes:
            self.discard(next(other for other in self if other.memory_bytes))

    def match(self, tokens: Sequence[int], adapter: str | None = None) -> Found:
        """The entry of an adapter that gives `tokens` the longest beginning.

        Of several with the same, one in memory is taken.
        """
        best = Found()
        longest = 0
        for saved in self:
            if saved.adapter != adapter:
                continue
            shared = common_prefix(saved.tokens, tokens)
            longest = max(longest, shared)
            if saved.partial or shared < best.length:
                continue
            found = self._from(saved, shared, tokens)
            in_memory = best.prefix is not None and saved.memory_bytes > best.prefix.memory_bytes == 0
            if found.length > best.length or (found.length == best.length and in_memory):
                best = found
        return replace(best, shared=longest)

    def point(self, tokens: Sequence[int], most: int, adapter: str | None = None) -> Prefix | None:
        """The longest beginning of `tokens`, at most so many, behind which what can't be cut is kept."""
        best: Prefix | None = None
        for saved in self:
            length = len(saved.tokens)
            if not saved.partial or saved.adapter != adapter or length > most:
                continue
            if (best is None or length > len(best.tokens)) and common_prefix(saved.tokens, tokens) == length:
                best = saved
        return best

    def touch(self, saved: Prefix) -> None:
        """Mark an entry as just used."""
        if self._entries.pop(id(saved), None) is not None:
            self._entries[id(saved)] = saved

    def discard(self, saved: Prefix) -> None:
        """Forget an entry."""
        if self._entries.pop(id(saved), None) is not None:
            self.used_bytes -= saved.memory_bytes

    def _from(self, saved: Prefix, shared: int, tokens: Sequence[int]) -> Found:
        """What an entry gives that shares so much with the tokens."""
        if shared >= self.past.least_saved(len(saved.tokens)):
            return Found(saved, shared)
        point = self.point(tokens, shared, saved.adapter)
        return Found() if point is None else Found(saved, len(point.tokens), point)

    def _replaces(self, saved: Prefix, other: Prefix) -> bool:
        """Whether whoever could go on from `other` can as well go on from `saved`."""
        if saved.adapter != other.adapter or saved.partial != other.partial:
            return False
        shared = common_prefix(saved.tokens, other.tokens)
        least = self.past.least_saved(len(saved.tokens)) if not saved.partial else len(saved.tokens)
        return least <= shared == len(other.tokens)
