"""The servers under test, each started as the process a user would start."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Protocol

import aiohttp
import psutil

from benchmarks.results import LLAMA_SERVER, ORIGINAL_CONTAINER, OURS
from scripts.free_ports import free_port

START_TIMEOUT_SECONDS = 120
_POLL_SECONDS = 0.01
_STOP_TIMEOUT_SECONDS = 40
_LOG_TAIL_CHARACTERS = 2000


@dataclass(frozen=True, slots=True)
class Setup:
    """What every server of a scenario is started with.

    Attributes:
        sequences: requests that run at once.
        context_tokens: KV cache cells for all of them together; each gets an equal part.
        llama_server_flags: those that `benchmarks.tuning` found its best.
        our_flags: more options of our server.
        own_cells: whether our server gives each sequence cells of its own rather than one pool to all.
        our_defaults: our server is told nothing of all this.
    """

    sequences: int
    context_tokens: int
    llama_server_flags: Sequence[str] = ()
    our_flags: Sequence[str] = ()
    own_cells: bool = True
    our_defaults: bool = False

    @property
    def sequence_tokens(self) -> int:
        """Each sequence's part of the cells."""
        return self.context_tokens // self.sequences


class Server(Protocol):
    """How to start one server."""

    @property
    def name(self) -> str:
        """The name in tables and results."""
        ...

    @property
    def model_name(self) -> str:
        """The `model` field of requests."""
        ...

    @property
    def ready_path(self) -> str:
        """The path that answers with `ready_status` as soon as requests are welcome."""
        ...

    @property
    def ready_status(self) -> int:
        """An HTTP status."""
        ...

    def command(self, port: int, setup: Setup) -> list[str]:
        """The command line that serves HTTP on `port` of the loopback interface."""
        ...


@dataclass(frozen=True, slots=True)
class OurServer:
    """`kserve-llamacpp serve`, as installed beside this Python.

    Attributes:
        options: more options of the command.
    """

    model: Path
    threads: int
    name: str = OURS
    options: Sequence[str] = ()
    model_name: str = "benchmark"
    ready_status: int = 200

    @property
    def ready_path(self) -> str:
        return f"/v2/models/{self.model_name}/ready"

    def command(self, port: int, setup: Setup) -> list[str]:
        options = {
            "--model-name": self.model_name,
            "--http-port": port,
            "--grpc-port": free_port(),
            "--threads": self.threads,
        }
        if not setup.our_defaults:
            options["--max-sequences"] = setup.sequences
            options["--context-tokens"] = setup.context_tokens
            if setup.own_cells:
                options["--max-sequence-tokens"] = setup.sequence_tokens
        arguments = [str(part) for option in options.items() for part in option]
        return [
            str(Path(sys.executable).with_name("kserve-llamacpp")),
            "serve",
            str(self.model),
            *arguments,
            *setup.our_flags,
            *self.options,
        ]


@dataclass(frozen=True, slots=True)
class LlamaServer:
    """llama.cpp's own server.

    Attributes:
        flags: added to those of the setup and stronger than them, such as `("-fa", "on")`.
    """

    binary: Path
    model: Path
    threads: int
    flags: Sequence[str] = ()
    name: str = LLAMA_SERVER
    model_name: str = "benchmark"
    ready_path: str = "/health"
    ready_status: int = 200

    def command(self, port: int, setup: Setup) -> list[str]:
        options = {
            "-m": self.model,
            "--host": "127.0.0.1",
            "--port": port,
            "-t": self.threads,
            "-np": setup.sequences,
            "-c": setup.context_tokens,
        }
        arguments = [str(part) for option in options.items() for part in option]
        return [str(self.binary), *arguments, "--no-ui", *setup.llama_server_flags, *self.flags]


@dataclass(frozen=True, slots=True)
class OriginalContainer:
    """The original container's Flask app, without the container."""

    model: Path
    name: str = ORIGINAL_CONTAINER
    model_name: str = "benchmark"
    ready_path: str = "/predict"
    ready_status: int = 405  # it has no health check; a GET is refused as soon as the app is up

    def command(self, port: int, setup: Setup) -> list[str]:
        return [sys.executable, "-m", "benchmarks.original_container", str(self.model), str(port)]


class ServerError(Exception):
    """A server ended or did not become ready; the message holds the end of its log."""


@dataclass(slots=True)
class RunningServer:
    """A server process that is ready.

    Attributes:
        server: how it was started.
        base_url: its address.
        process: its main process.
        log: its output.
        started: when the process was started, on the clock of `time.perf_counter`.
        ready_seconds: from then to its first "ready".
    """

    server: Server
    base_url: str
    process: psutil.Popen
    log: IO[bytes] = field(repr=False)
    started: float
    ready_seconds: float = 0.0

    @property
    def name(self) -> str:
        return self.server.name

    @property
    def model_name(self) -> str:
        return self.server.model_name

    def cpu_seconds(self) -> float:
        """User and system time of the process and its children since they started."""
        return float(sum(sum(process.cpu_times()[:2]) for process in self._processes()))

    def memory_bytes(self) -> int:
        """Resident memory of the process and its children."""
        return int(sum(process.memory_info().rss for process in self._processes()))

    def _processes(self) -> list[psutil.Process]:
        return [self.process, *self.process.children(recursive=True)]

    def log_tail(self) -> str:
        """The end of what the process wrote."""
        return Path(self.log.name).read_text(errors="replace")[-_LOG_TAIL_CHARACTERS:]

    def stop(self) -> None:
        """SIGTERM, then SIGKILL for one that stays and for what an aborted one left behind."""
        if self.process.poll() is None:
            self.process.terminate()
            with suppress(psutil.TimeoutExpired):
                self.process.wait(_STOP_TIMEOUT_SECONDS)
        # llama.cpp forks to print a backtrace as it aborts, and the copies can stay.
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.log.close()


@asynccontextmanager
async def running(server: Server, setup: Setup) -> AsyncIterator[RunningServer]:
    """Start the server on a free port, wait until it is ready, stop it at the end.

    Raises:
        ServerError: the program isn't there, the process ended, or it was not ready in time.
    """
    port = free_port()
    log = tempfile.NamedTemporaryFile(prefix="benchmark-", suffix=".log")  # noqa: SIM115
    started = time.perf_counter()
    try:
        process = psutil.Popen(server.command(port, setup), stdout=log, stderr=log, start_new_session=True)
    except FileNotFoundError as error:
        raise ServerError(f"{server.name}: there is no {error.filename}; run `make setup` first") from None
    instance = RunningServer(server, f"http://127.0.0.1:{port}", process, log, started)
    try:
        await _wait_until_ready(instance)
        instance.ready_seconds = time.perf_counter() - started
        yield instance
    finally:
        instance.stop()


async def _wait_until_ready(instance: RunningServer) -> None:
    url = instance.base_url + instance.server.ready_path
    deadline = time.perf_counter() + START_TIMEOUT_SECONDS
    async with aiohttp.ClientSession() as session:
        while time.perf_counter() < deadline:
            if instance.process.poll() is not None:
                raise ServerError(
                    f"{instance.name} ended with code {instance.process.returncode}:\n{instance.log_tail()}"
                )
            if await _status(session, url) == instance.server.ready_status:
                return
            await asyncio.sleep(_POLL_SECONDS)
    raise ServerError(
        f"{instance.name} was not ready at {url} after {START_TIMEOUT_SECONDS} s:\n{instance.log_tail()}"
    )


async def _status(session: aiohttp.ClientSession, url: str) -> int | None:
    try:
        async with session.get(url) as response:
            return response.status
    except aiohttp.ClientError:
        return None


def shown_command(server: Server, setup: Setup) -> str:
    """The command line for the report, with names of files instead of their paths."""
    parts = [Path(part).name if part.startswith("/") else part for part in server.command(0, setup)]
    return shlex.join(parts)
