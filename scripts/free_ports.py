"""Ports for servers that tests, benchmarks and notebooks start on this machine."""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack

RANGE = range(20000, 32768)
"""Above Ray's workers, and below what Linux gives to outgoing connections, which would take one too soon."""


def free_ports(count: int) -> list[int]:
    """Different TCP ports that were free on all interfaces a moment ago.

    Raises:
        OSError: too few are free.
    """
    with ExitStack() as held:
        found: list[int] = []
        # The system's chance: hypothesis seeds Python's, and two processes would try the same ports.
        for port in random.SystemRandom().sample(RANGE, len(RANGE)):
            try:
                held.enter_context(socket.create_server(("", port)))
            except OSError:
                continue
            found.append(port)
            if len(found) == count:
                return found
    raise OSError(f"fewer than {count} ports from {RANGE.start} to {RANGE.stop - 1} are free")


def free_port() -> int:
    """A TCP port that was free a moment ago."""
    return free_ports(1)[0]
