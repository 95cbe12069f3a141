"""Server processes for tests: the command as a user starts it, always stopped at the end."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from processes import stop

from scripts.free_ports import free_ports

COMMAND = (sys.executable, "-m", "predictor.cli")


@dataclass(frozen=True)
class Server:
    """A server process and where it listens."""

    http_url: str
    grpc_url: str
    model_name: str
    context_tokens: int
    process: subprocess.Popen[str]
    log: Path

    @property
    def ready_url(self) -> str:
        """What a readiness probe asks."""
        return f"{self.http_url}/v2/models/{self.model_name}/ready"


@contextmanager
def started_server(
    model: Path,
    log: Path,
    *options: str,
    context_tokens: int = 4096,
    command: Sequence[str] = COMMAND,
    name: str = "smol",
) -> Iterator[Server]:
    """Start `kserve-llamacpp serve` on free ports without waiting for it, and always stop it."""
    http_port, grpc_port = free_ports(2)
    arguments = [*command, "serve", str(model), "--model-name", name]
    arguments += ["--host", "127.0.0.1", "--http-port", str(http_port), "--grpc-port", str(grpc_port)]
    arguments += ["--context-tokens", str(context_tokens), *options]
    with log.open("w") as output:
        process = subprocess.Popen(arguments, stderr=output, stdout=output, text=True)
    try:
        yield Server(
            f"http://127.0.0.1:{http_port}", f"127.0.0.1:{grpc_port}", name, context_tokens, process, log
        )
    finally:
        stop(process)


@contextmanager
def running_server(
    model: Path, log: Path, *options: str, context_tokens: int = 4096, name: str = "smol"
) -> Iterator[Server]:
    """Like `started_server`, ready when the block begins."""
    with started_server(model, log, *options, context_tokens=context_tokens, name=name) as server:
        wait_until_ready(server)
        yield server


def wait_until_ready(server: Server, seconds: float = 180) -> None:
    """Poll as a readiness probe does."""
    deadline = time.monotonic() + seconds
    while True:
        assert server.process.poll() is None, server.log.read_text()
        assert time.monotonic() < deadline, server.log.read_text()
        try:
            if httpx.get(server.ready_url).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
