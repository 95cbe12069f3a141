"""A server of this package in a process of its own, for one user of this machine."""

from __future__ import annotations

import ctypes
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from predictor.errors import StartupError

LINUX_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG in prctl(2)
STOP_SECONDS = 10
POLL_SECONDS = 0.1


@contextmanager
def local_server(model: str, options: Sequence[str]) -> Iterator[str]:
    """Start it, wait until it is ready, and stop it at the end.

    Args:
        model: as for `serve`.
        options: further ones of `serve`.

    Yields:
        Its URL.

    Raises:
        StartupError: it has ended by itself; the message is what it said last.
    """
    port = _free_port()
    command = [sys.executable, "-m", "predictor.cli", "serve", model, "--no-enable-grpc"]
    command += [*options, "--host", "127.0.0.1", "--http-port", str(port)]
    url = f"http://127.0.0.1:{port}"
    with tempfile.NamedTemporaryFile("w+", prefix="kserve-llamacpp-", suffix=".log") as log:
        # In a session of its own, so that Ctrl-C stops an answer and not the server.
        server = subprocess.Popen(  # noqa: S603
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )
        try:
            _wait_until_ready(server, url, Path(log.name))
            yield url
        finally:
            _stop(server)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def _end_with_parent() -> None:
    """Nobody else knows of this server: it must not outlive a terminal that was closed or killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(LINUX_PARENT_DEATH_SIGNAL, signal.SIGTERM)


def _wait_until_ready(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    import httpx

    with Console(stderr=True).status("starting") as status, httpx.Client(trust_env=False) as client:
        while True:
            if server.poll() is not None:
                raise StartupError(_last_words(log))
            try:
                if client.get(f"{url}/v2/health/ready", timeout=5).is_success:
                    return
            except httpx.TransportError:
                pass  # It doesn't listen yet.
            status.update(_progress(log))
            time.sleep(POLL_SECONDS)


def _progress(log: Path) -> str:
    """The last line of the log without its time, level and logger."""
    lines = log.read_text(errors="replace").splitlines()
    return lines[-1].rpartition(": ")[2][:100].replace("[", r"\[") if lines else "starting"


def _last_words(log: Path) -> str:
    text = log.read_text(errors="replace").strip()
    _, found, message = text.rpartition("error: ")
    return message if found else f"the server has ended: {text[-2000:]}"


def _stop(server: subprocess.Popen[bytes]) -> None:
    if server.poll() is not None:
        return
    server.terminate()
    try:
        server.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
