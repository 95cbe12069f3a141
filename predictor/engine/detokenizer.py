"""From token bytes to text that can be shown: whole characters only, and never a part of a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class Detokenizer:
    """Collects one sequence's bytes and releases the text that is certain.

    Text is held back while it may still be the beginning of a stop string, and bytes while they may be the
    beginning of a character. Bytes that can't be UTF-8 become U+FFFD.

    Args:
        stop: strings that end the text; they and what follows them are dropped.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._stop = tuple(stop)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self.stopped_by: str | None = None

    def push(self, piece: bytes) -> str:
        """Take the next token's bytes and return the text that became certain, maybe none.

        `stopped_by` is the stop string that was completed, if any; nothing may be pushed then.
        """
        text = self._decoder.decode(piece)
        if not self._stop:
            return text
        self._held += text
        found = [(at, stop) for stop in self._stop if (at := self._held.find(stop)) >= 0]
        if found:
            cut, self.stopped_by = min(found)
            certain, self._held = self._held[:cut], ""
            return certain
        keep = max(overlap(self._held, stop) for stop in self._stop)
        certain = self._held[: len(self._held) - keep]
        self._held = self._held[len(self._held) - keep :]
        return certain

    def flush(self) -> str:
        """End the text: what was held back for a stop string that never came.

        Bytes of an unfinished character are dropped.
        """
        text, self._held = self._held, ""
        return text


def overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a beginning of `stop`, the whole of it excluded."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
