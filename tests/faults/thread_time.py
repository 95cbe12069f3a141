"""What a server's threads spend outside of decoding, so that a gap counts the same on a busy machine."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

# A thread that uses a core for so much of the time while nothing but a stream runs is one that decodes.
_BUSY = 0.2


class ThreadTime:
    """CPU time of a process's threads, those left out that decode.

    Args:
        pid: of the process, in which at least one stream and nothing else runs now.
        seconds: how long to watch it, to tell the threads apart.
    """

    def __init__(self, pid: int, seconds: float = 3) -> None:
        self._tasks = Path(f"/proc/{pid}/task")
        before = self._times()
        started = time.monotonic()
        time.sleep(seconds)
        took = time.monotonic() - started
        after = self._times()
        total = sum(after.values()) - sum(before.values())
        busy = {thread: spent - before.get(thread, 0) for thread, spent in after.items()}
        # On a busy machine even a decoding thread gets little, so its share of what there was counts as well.
        limit = min(_BUSY * took, _BUSY * total)
        self.decoding = {t for t, spent in busy.items() if spent > limit and t != str(pid)}

    def seconds(self) -> float:
        """CPU seconds of the other threads so far."""
        return sum(spent for thread, spent in self._times().items() if thread not in self.decoding)

    def _times(self) -> dict[str, float]:
        times = {}
        for task in self._tasks.iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                times[task.name] = int((task / "schedstat").read_text().split()[0]) / 1e9
        return times
