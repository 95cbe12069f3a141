"""`kserve-llamacpp run`: one command to a chat, and nothing left behind."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
from polling import wait_until

COMMAND = [sys.executable, "-m", "predictor.cli", "run"]
SECONDS = 120


def run(question: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], input=question, capture_output=True, text=True, timeout=SECONDS
    )


def test_a_question_is_answered_and_the_server_is_gone(model_path: Path) -> None:
    options = (
        "--system",
        "Answer in one sentence.",
        "--temperature",
        "0",
        "--max-tokens",
        "32",
        "--context-tokens",
        "512",
    )
    before = servers()
    done = run("What is the capital of France?", str(model_path), *options)
    assert done.returncode == 0, done.stderr
    assert "Paris" in done.stdout
    assert servers() <= before


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    done = run("Hello", str(tmp_path / "no.gguf"))
    assert done.returncode == 1
    assert done.stderr.count("\n") <= 2, done.stderr
    assert f"error: model {tmp_path / 'no.gguf'} does not exist" in done.stderr


def test_an_option_that_serve_does_not_know(model_path: Path) -> None:
    done = run("Hello", str(model_path), "--max-queu", "3")
    assert done.returncode == 1
    assert "--max-queu" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_server_ends_with_a_command_that_is_killed(model_path: Path) -> None:
    command = subprocess.Popen(
        [*COMMAND, str(model_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        process = psutil.Process(command.pid)
        wait_until(process.children, process=command)
        (server,) = process.children()
    finally:
        command.send_signal(signal.SIGKILL)
        command.wait()
    try:
        wait_until(lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE)
    finally:
        with suppress(psutil.NoSuchProcess):
            server.kill()


def servers() -> set[int]:
    """Servers of this kind on this machine, other tests' too."""
    found = set()
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"] or []
        if "serve" in line and "--no-enable-grpc" in line and "512" in line:
            found.add(process.pid)
    return found
