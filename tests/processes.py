"""Child processes of tests."""

from __future__ import annotations

import subprocess
from typing import Any


def stop(process: subprocess.Popen[Any], seconds: float = 30) -> None:
    """End a process: by SIGTERM, and by SIGKILL if that takes longer than so many seconds."""
    process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
