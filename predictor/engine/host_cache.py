"""KV state of prefixes in ordinary memory: slower to take over than cells, but it slows no decode down.

llama.cpp's attention looks at every cell in use, also at those of other sequences, so cells that only wait
for a later request cost every running one. Saving or restoring a state costs about as much as copying its
bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

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
    """

    tokens: list[int]
    state: npt.NDArray[np.uint8]
    adapter: str | None = None

    @property
    def memory_bytes(self) -> int:
        """Size of the state."""
        return self.state.nbytes

    def read(self) -> npt.NDArray[np.uint8]:
        """The state."""
        return self.state

    def drop(self) -> None:
        """Nothing: it is nowhere but in memory."""


class HostCache:
    """Saved prefixes, the longest unused of which goes first when memory runs out.

    Args:
        max_bytes: most bytes of state in memory; 0 saves nothing.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.used_bytes = 0
        self._entries: dict[int, Prefix] = {}

    def __iter__(self) -> Iterator[Prefix]:
        """All entries, the longest unused first."""
        return iter(self._entries.values())

    def add(self, saved: Prefix) -> None:
        """Keep an entry; those that it contains go, but none on disk for one in memory, which may go soon."""
        for other in list(self):
            if other.adapter != saved.adapter or (saved.memory_bytes and not other.memory_bytes):
                continue
            if common_prefix(saved.tokens, other.tokens) == len(other.tokens):
                self.discard(other)
        self._entries[id(saved)] = saved
        self.used_bytes += saved.memory_bytes
        while self.used_bytes > self.max_bytes:
            self.discard(next(other for other in self if other.memory_bytes))

    def match(self, tokens: Sequence[int], adapter: str | None = None) -> tuple[Prefix | None, int]:
        """The entry of an adapter that shares the longest beginning with `tokens`, and how long that is.

        Of several with the same, one in memory is taken.
        """
        best: Prefix | None = None
        length = 0
        for saved in self:
            shared = common_prefix(saved.tokens, tokens) if saved.adapter == adapter else 0
            if shared > length or (shared == length and best and saved.memory_bytes > best.memory_bytes == 0):
                best, length = saved, shared
        return best, length

    def touch(self, saved: Prefix) -> None:
        """Mark an entry as just used."""
        if self._entries.pop(id(saved), None) is not None:
            self._entries[id(saved)] = saved

    def discard(self, saved: Prefix) -> None:
        """Forget an entry."""
        if self._entries.pop(id(saved), None) is not None:
            self.used_bytes -= saved.memory_bytes
