"""Starting and stopping servers, tried on small programs instead of model servers."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import psutil
import pytest

from benchmarks.servers import LlamaServer, OurServer, ServerError, Setup, running, shown_command
from scripts.free_ports import free_port, free_ports

SETUP = Setup(sequences=4, context_tokens=4096, llama_server_flags=("-b", "512"))


@dataclass(frozen=True)
class Program:
    """A server that is a Python program; it gets its port as an argument."""

    source: str
    name: str = "program"
    model_name: str = "none"
    ready_path: str = "/"
    ready_status: int = 200

    def command(self, port: int, setup: Setup) -> list[str]:
        return [sys.executable, "-c", self.source, str(port)]


SERVES = (
    "import http.server, sys; http.server.test(http.server.SimpleHTTPRequestHandler, port=int(sys.argv[1]))"
)


async def test_a_server_is_ready_measured_and_stopped() -> None:
    async with running(Program(SERVES), SETUP) as instance:
        async with aiohttp.ClientSession() as session, session.get(instance.base_url) as response:
            assert response.status == 200
        assert 0 < instance.ready_seconds < 30
        assert instance.cpu_seconds() > 0
        assert instance.memory_bytes() > 2**20
        pid = instance.process.pid
    assert not psutil.pid_exists(pid)


async def test_what_an_aborted_server_left_behind_is_stopped() -> None:
    forks = f"import os, sys, time\nif os.fork() == 0:\n    while True: time.sleep(1)\n{SERVES}"
    async with running(Program(forks), SETUP) as instance:
        [left_behind] = instance.process.children()
        instance.process.kill()
    left_behind.wait(timeout=10)


async def test_a_server_that_ends_fails_with_its_own_words() -> None:
    with pytest.raises(ServerError, match=r"(?s)program ended with code 3.*no such model"):
        async with running(Program("print('no such model', flush=True); raise SystemExit(3)"), SETUP):
            pass


async def test_a_program_that_is_not_installed_is_named(tmp_path: Path) -> None:
    server = LlamaServer(tmp_path / "llama-server", tmp_path / "model.gguf", 2)
    with pytest.raises(ServerError, match=r"there is no .*llama-server; run `make setup` first"):
        async with running(server, SETUP):
            pass


async def test_a_server_is_stopped_when_the_measurement_fails() -> None:
    with pytest.raises(ZeroDivisionError):
        async with running(Program(SERVES), SETUP) as instance:
            raise ZeroDivisionError
    assert instance.process.returncode is not None


def test_all_servers_get_the_same_model_threads_and_context(tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    ours = " ".join(OurServer(model, threads=2).command(8080, SETUP))
    theirs = " ".join(LlamaServer(Path("/bin/llama-server"), model, threads=2).command(8080, SETUP))
    assert "--threads 2 --max-sequences 4 --context-tokens 4096" in ours
    assert "-t 2 -np 4 -c 4096" in theirs
    assert theirs.endswith("-b 512")


def test_flags_given_by_hand_come_last_and_so_win(tmp_path: Path) -> None:
    server = LlamaServer(Path("/bin/llama-server"), tmp_path / "model.gguf", 2, flags=("-b", "64"))
    assert server.command(8080, SETUP)[-4:] == ["-b", "512", "-b", "64"]


def test_the_shown_command_holds_no_paths(tmp_path: Path) -> None:
    server = LlamaServer(tmp_path / "llama-server", tmp_path / "model.gguf", 2)
    assert str(tmp_path) not in shown_command(server, SETUP)
    assert shown_command(server, SETUP).startswith("llama-server -m model.gguf")


def test_free_ports_are_free() -> None:
    assert len(set(free_ports(20))) == 20
    with socket.create_server(("127.0.0.1", free_port())) as taken:
        assert taken.getsockname()[1] not in free_ports(20)


INTERRUPTED = """
import asyncio, sys
sys.path[:0] = ["tests/benchmarks"]
from test_benchmark_servers import SERVES, SETUP, Program
from benchmarks.measure import run_to_end
from benchmarks.servers import running

async def measure():
    async with running(Program(SERVES), SETUP) as instance:
        print(instance.process.pid, flush=True)
        await asyncio.sleep(60)

run_to_end(measure())
"""


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_benchmark_leaves_no_server_behind(stop: signal.Signals) -> None:
    benchmark = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert benchmark.stdout is not None
    server = psutil.Process(int(benchmark.stdout.readline()))
    benchmark.send_signal(stop)
    benchmark.wait(30)
    assert not server.is_running()
