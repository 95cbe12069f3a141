"""How long the parts of a start take, from the process's beginning on."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class StartupTimes:
    """Collects the parts; made as early as possible.

    Args:
        of_process: whether the start is the process's, not that of a model which it loads later.

    Attributes:
        parts: seconds by name. `python` is what passed before this object was made; missing where the
            system doesn't tell when the process began.
    """

    def __init__(self, of_process: bool = True) -> None:
        self.parts: dict[str, float] = {}
        self._began = time.perf_counter()
        age = _process_age() if of_process else None
        if age is not None:
            self.parts["python"] = age
            self._began -= age

    @contextmanager
    def measure(self, part: str) -> Iterator[None]:
        """Add the time the block takes; parts on different threads may overlap."""
        started = time.perf_counter()
        yield
        self.parts[part] = time.perf_counter() - started

    def split(self, part: str, end: str, seconds: float) -> None:
        """Count the last seconds of a part as a part of their own."""
        self.parts[part] -= seconds
        self.parts[end] = seconds

    def __str__(self) -> str:
        return ", ".join(f"{part} {seconds:.2f} s" for part, seconds in self.parts.items())

    def finish(self) -> None:
        """Add `total`, the time since the process began."""
        self.parts["total"] = time.perf_counter() - self._began


def _process_age() -> float | None:
    """Seconds since this process was started, to a hundredth; None without Linux's /proc.

    Field 22 of /proc/self/stat is its start in clock ticks since boot (`man 5 proc_pid_stat`).
    """
    try:
        after_name = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        started = int(after_name[19]) / os.sysconf("SC_CLK_TCK")
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started)
    except (OSError, ValueError, IndexError, AttributeError):
        return None
