"""`kserve-llamacpp chat` on a real model, in a real terminal and in a pipe."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import httpx
import pytest
from server_process import Server

COMMAND = [sys.executable, "-m", "predictor.cli", "chat"]
BRIEF = ["--system", "Answer in one sentence.", "--temperature", "0", "--max-tokens", "32"]
QUESTION = "What is the capital of France?"
LONG = "Write a very long story about a sailor and his dog."
SECONDS = 60


class Terminal:
    """A user at a terminal: types, reads, presses Ctrl-C."""

    def __init__(self, *arguments: str) -> None:
        self._leader, follower = pty.openpty()
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
        # A session of its own, whose controlling terminal it is: then Ctrl-C reaches it as from a keyboard.
        self.process = subprocess.Popen(
            [*COMMAND, *arguments],
            stdin=follower,
            stdout=follower,
            stderr=follower,
            env=environment,
            start_new_session=True,
            preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),
        )
        os.close(follower)
        self.seen = ""

    def type(self, text: str) -> None:
        os.write(self._leader, text.encode())

    def read_until(self, pattern: str) -> str:
        """What the screen shows up to the pattern, since the last call."""
        deadline = time.monotonic() + SECONDS
        while (found := re.search(pattern, self.seen)) is None:
            assert time.monotonic() < deadline, f"{pattern!r} did not come in {self.seen!r}"
            if select.select([self._leader], [], [], 0.2)[0]:
                try:
                    self.seen += os.read(self._leader, 65536).decode(errors="replace")
                except OSError:  # the other side is closed
                    pytest.fail(f"the program ended before {pattern!r}: {self.seen!r}")
        shown, self.seen = self.seen[: found.end()], self.seen[found.end() :]
        return re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", shown)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._leader)


@contextmanager
def terminal(*arguments: str) -> Iterator[Terminal]:
    made = Terminal(*arguments)
    try:
        yield made
    finally:
        made.close()


def running_requests(server: Server) -> float:
    metrics = httpx.get(f"{server.http_url}/metrics").text
    found = re.search(r"^kserve_llamacpp_num_requests_running\{.*\} (\S+)$", metrics, re.M)
    assert found
    return float(found[1])


def piped(text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], input=text, capture_output=True, text=True, timeout=SECONDS, check=False
    )


def test_a_pipe_gets_the_answer_and_nothing_else(server: Server) -> None:
    done = piped(f"{QUESTION}\n", server.http_url, *BRIEF)
    assert (done.returncode, done.stdout, done.stderr) == (0, "The capital of France is Paris.\n", "")


def test_an_empty_pipe_is_an_error(server: Server) -> None:
    done = piped("\n", server.http_url)
    assert done.returncode == 1
    assert "standard input is empty" in done.stderr


def test_a_servers_refusal_is_told_in_its_words(server: Server) -> None:
    done = piped("Hi " * 5000, server.http_url)
    assert done.returncode == 1
    assert "the server answered 400: " in done.stderr
    assert "Traceback" not in done.stderr


def test_a_conversation_remembers_and_forgets(server: Server) -> None:
    with terminal(server.http_url, *BRIEF) as user:
        assert "smol at http://" in user.read_until("> ")
        user.type(f"{QUESTION}\n")
        assert "The capital of France is Paris." in user.read_until(r"7 tokens, first after \d")
        user.read_until("> ")
        user.type("/history\n")
        shown = user.read_until("> ")
        assert f"user {QUESTION}" in shown
        assert "assistant The capital of France is Paris." in shown
        user.type("/reset\n")
        user.read_until("forgotten")
        user.read_until("> ")
        user.type("/history\n")
        assert "Paris" not in user.read_until("> ")
        user.type("/system Answer in French.\n")
        user.read_until("system prompt: Answer in French.")
        user.type("/nonsense\n")
        user.read_until("there is no command /nonsense")
        user.type("/exit\n")
        assert user.process.wait(SECONDS) == 0


def test_ctrl_c_stops_the_answer_and_not_the_program(server: Server) -> None:
    with terminal(server.http_url, "--temperature", "0", "--max-tokens", "3000") as user:
        user.read_until("> ")
        user.type(f"{LONG}\n")
        user.read_until("Once upon a time")
        assert running_requests(server) == 1
        user.type("\x03")
        user.read_until("stopped")
        user.read_until("> ")
        deadline = time.monotonic() + SECONDS
        while running_requests(server) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert running_requests(server) == 0
        user.type("\x03")  # at the prompt it drops the line
        user.read_until("> ")
        user.type("/history\n")
        assert "assistant" in user.read_until("> ")
        user.type("\x04")
        assert user.process.wait(SECONDS) == 0


class _Hostile(BaseHTTPRequestHandler):
    """A fake server whose model writes what a terminal would obey."""

    def do_GET(self) -> None:
        self._send(json.dumps({"data": [{"id": "hostile"}]}))

    def do_POST(self) -> None:
        event = json.dumps({"choices": [{"delta": {"content": "a\x1b]0;owned\x07b\u202ec\td"}}]})
        self._send(f"data: {event}\n\ndata: [DONE]\n\n")

    def _send(self, text: str) -> None:
        self.send_response(200)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        """Nothing."""


def test_a_terminal_gets_no_commands_from_the_model() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Hostile) as fake:
        Thread(target=fake.serve_forever, daemon=True).start()
        try:
            done = piped("Hi", f"http://127.0.0.1:{fake.server_port}")
        finally:
            fake.shutdown()
    assert done.stdout == "a]0;ownedbc\td\n"


def test_sigint_is_the_users_way_out_of_a_pipe(server: Server) -> None:
    with subprocess.Popen(
        [*COMMAND, server.http_url, "--max-tokens", "3000", "--temperature", "0"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        process.stdin.write(LONG)
        process.stdin.close()
        assert process.stdout.read(5)
        process.send_signal(signal.SIGINT)
        assert process.wait(SECONDS) == 130
        assert "Traceback" not in process.stderr.read()
