"""Ports for servers that tests, benchmarks and notebooks start on this machine."""

from __future__ import annotations

import socket
from contextlib import ExitStack


def free_ports(count: int) -> list[int]:
    """Different TCP ports that were free on the loopback interface a moment ago."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [found.getsockname()[1] for found in sockets]


def free_port() -> int:
    """A TCP port that was free on the loopback interface a moment ago."""
    return free_ports(1)[0]
