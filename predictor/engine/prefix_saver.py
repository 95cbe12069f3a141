"""When prefixes are written to disk, and on which thread."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from queue import SimpleQueue

from predictor.engine.decode_loop import DecodeLoop
from predictor.engine.host_cache import Prefix
from predictor.engine.prefix_store import PrefixStore

logger = logging.getLogger(__name__)

# Prefixes are saved about this often, so that a killed process loses little.
SAVE_SECONDS = 300


class PrefixSaver:
    """Writes prefixes on a thread of its own, which gets one at a time from the decode thread.

    Only the decode thread may copy cells, and no step waits for a disk. All methods are called on it.

    Args:
        store: where they go.
        wake: makes the decode thread call `advance`; called on the other thread.
    """

    def __init__(self, store: PrefixStore, wake: Callable[[], None]) -> None:
        self._store = store
        self._wake = wake
        self._due = time.monotonic() + SAVE_SECONDS
        self._steps = 0
        self._prefixes: Iterator[Prefix] = iter(())
        self._thread: threading.Thread | None = None
        self._wants_one = False
        self._offers: SimpleQueue[Prefix | None] = SimpleQueue()

    @property
    def has_work(self) -> bool:
        """Whether `advance` would do something."""
        return self._wants_one or time.monotonic() >= self._due

    @property
    def idle_seconds(self) -> float:
        """How long `advance` need not be called unless the thread wakes the engine."""
        return max(0.0, self._due - time.monotonic())

    def advance(self, loop: DecodeLoop) -> None:
        """Begin to save where it is time, and give the writing thread the next prefix where it wants one."""
        if self._wants_one:
            self._wants_one = False
            self._offers.put(self._next())
        elif time.monotonic() >= self._due:
            self._due = time.monotonic() + SAVE_SECONDS
            steps = loop.stats().steps
            if steps != self._steps and (self._thread is None or not self._thread.is_alive()):
                self._steps = steps
                self._prefixes = loop.prefixes(self._store.holds)
                self._thread = threading.Thread(target=self._write, name="save", daemon=True)
                self._thread.start()

    def finish(self, loop: DecodeLoop) -> None:
        """Save everything now, on this thread; what the other one is writing is finished first."""
        if self._thread is not None:
            self._offers.put(None)
            self._thread.join()
        self._prefixes = loop.prefixes(self._store.holds)
        self._store.save(iter(self._next, None))

    def _next(self) -> Prefix | None:
        try:
            return next(self._prefixes, None)
        except Exception:
            logger.exception("no more prefixes are saved this time")
            return None

    def _write(self) -> None:
        try:
            self._store.save(self._taken())
        except Exception:
            logger.exception("prefixes could not be saved")

    def _taken(self) -> Iterator[Prefix]:
        """What the decode thread offers, one after the other."""
        while True:
            self._wants_one = True
            self._wake()
            prefix = self._offers.get()
            if prefix is None:
                return
            yield prefix
            del prefix  # before the next one is copied
