"""Fixtures that tests of all folders share."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

MODEL_VARIABLE = "KSERVE_LLAMACPP_TEST_MODEL"


@pytest.fixture(scope="session")
def model_path() -> Path:
    """The demo model's GGUF file."""
    path = os.environ.get(MODEL_VARIABLE)
    if not path:
        pytest.fail(f"{MODEL_VARIABLE} is not set: run `make test`, which fetches the demo model")
    return Path(path)


@dataclass(frozen=True)
class Server:
    """A server process that is ready."""

    http_url: str
    grpc_url: str
    model_name: str
    context_tokens: int
    process: subprocess.Popen[str]
    log: Path


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running_server(model: Path, log: Path, *options: str, context_tokens: int = 4096) -> Iterator[Server]:
    """Start `kserve-llamacpp serve` on free ports, wait until it is ready, and always stop it."""
    http_port, grpc_port = free_port(), free_port()
    command = [sys.executable, "-m", "predictor.cli", "serve", str(model), "--model-name", "smol"]
    command += ["--http-port", str(http_port), "--grpc-port", str(grpc_port)]
    command += ["--context-tokens", str(context_tokens), *options]
    with log.open("w") as output:
        process = subprocess.Popen(command, stderr=output, stdout=output, text=True)
    server = Server(
        f"http://127.0.0.1:{http_port}", f"127.0.0.1:{grpc_port}", "smol", context_tokens, process, log
    )
    try:
        _wait_until_ready(server)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_ready(server: Server, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while True:
        assert server.process.poll() is None, server.log.read_text()
        assert time.monotonic() < deadline, server.log.read_text()
        try:
            if httpx.get(f"{server.http_url}/v2/models/{server.model_name}/ready").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)


@pytest.fixture(scope="session")
def server(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server on the demo model for all protocol tests."""
    with running_server(model_path, tmp_path_factory.mktemp("server") / "log") as server:
        yield server
