"""KV state of prefixes in ordinary memory: slower to take over than cells, but it slows no decode down.

llama.cpp's attention looks at every cell in use, also at those of other sequences, so cells that only wait
for a later request cost every running one. Saving or restoring a state costs about as much as copying its
bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from predictor.engine.prefix_cache import common_prefix


@dataclass(frozen=True, slots=True, eq=False)
class SavedPrefix:
    """Tokens and what llama.cpp computed for them.

    Attributes:
        tokens: from position 0 on.
        state: llama.cpp's own format, readable by a context of the same model and parameters.
    """

    tokens: list[int]
    state: npt.NDArray[np.uint8]


class HostCache:
    """Saved prefixes, the longest unused of which goes first when memory runs out.

    Args:
        max_bytes: most bytes of state; 0 saves nothing.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.used_bytes = 0
        self._entries: dict[int, SavedPrefix] = {}

    def __iter__(self) -> Iterator[SavedPrefix]:
        """All entries, the longest unused first."""
        return iter(self._entries.values())

    def add(self, saved: SavedPrefix) -> None:
        """Keep an entry; those that it contains go."""
        for other in list(self):
            if common_prefix(saved.tokens, other.tokens) == len(other.tokens):
                self.discard(other)
        self._entries[id(saved)] = saved
        self.used_bytes += saved.state.nbytes
        while self.used_bytes > self.max_bytes:
            self.discard(next(iter(self)))

    def match(self, tokens: Sequence[int]) -> tuple[SavedPrefix | None, int]:
        """The entry that shares the longest beginning with `tokens`, and how long that is."""
        best, length = None, 0
        for saved in self:
            shared = common_prefix(saved.tokens, tokens)
            if shared > length:
                best, length = saved, shared
        return best, length

    def touch(self, saved: SavedPrefix) -> None:
        """Mark an entry as just used."""
        if self._entries.pop(id(saved), None) is not None:
            self._entries[id(saved)] = saved

    def discard(self, saved: SavedPrefix) -> None:
        """Forget an entry."""
        if self._entries.pop(id(saved), None) is not None:
            self.used_bytes -= saved.state.nbytes
