"""Waiting for what other threads and processes do."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def wait_until(
    condition: Callable[[], object],
    seconds: float = 60,
    *,
    process: subprocess.Popen[Any] | None = None,
    log: Path | None = None,
) -> None:
    """Poll until a condition holds.

    Args:
        seconds: fail after so many.
        process: fail once this one has ended.
        log: its output, for the message.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, log.read_text() if log else "the process has ended"
        assert time.monotonic() < deadline, f"it did not happen within {seconds:g} s"
        time.sleep(0.02)
