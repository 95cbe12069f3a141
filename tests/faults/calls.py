"""Calls for fault tests: streams read by plain sockets, canaries in the background, the server's state."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import psutil
from canaries import Canaries
from server_process import Server

PATIENCE = 1200.0
"""Seconds after which something counts as hung. A busy machine may stand still for minutes."""

LEAST_ANSWERS = 10
"""Answers to bystanders that tell whether the model repeats its words at all."""


def post_bytes(path: str, body: Any, **headers: str) -> bytes:
    """A whole HTTP/1.1 request."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", "Host: x", "Content-Type: application/json"]
    lines += [f"Content-Length: {len(content)}", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + content


def connect(server: Server, *, receive_buffer: int | None = None) -> socket.socket:
    host, port = server.http_url.removeprefix("http://").split(":")
    connection = socket.socket()
    if receive_buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.settimeout(PATIENCE)
    connection.connect((host, int(port)))
    return connection


def ask(server: Server, canaries: Canaries, tokens: int = 12, lead: str = "") -> None:
    """One greedy completion of `lead` and a canary, checked."""
    word, prompt = canaries.prompt()
    body = {"model": "smol", "prompt": lead + prompt, "max_tokens": tokens, "temperature": 0}
    answer = httpx.post(f"{server.http_url}/v1/completions", json=body, timeout=PATIENCE)
    assert answer.status_code == 200, answer.text
    canaries.check(word, answer.json()["choices"][0]["text"])


@contextmanager
def bystanders(server: Server, count: int = 2) -> Iterator[Canaries]:
    """Well-behaved clients that ask all the time; none may fail or get another's word."""
    canaries, stop, failures = Canaries(), threading.Event(), []

    def run() -> None:
        while not stop.is_set() or canaries.checked < LEAST_ANSWERS:
            try:
                ask(server, canaries)
            except Exception as error:
                failures.append(repr(error))
                return

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield canaries
    finally:
        stop.set()
        for thread in threads:
            thread.join(300)
    assert not failures, failures[:3]
    canaries.assert_own()


def metric(server: Server, name: str) -> float:
    """The sum of a metric's series."""
    text = httpx.get(f"{server.http_url}/metrics", timeout=PATIENCE).text
    lines = [line for line in text.splitlines() if line.startswith(f"kserve_llamacpp_{name}{{")]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


def wait_until_idle(server: Server, seconds: float = PATIENCE) -> None:
    """Wait until nothing runs or waits."""
    deadline = time.monotonic() + seconds
    while metric(server, "num_requests_running") + metric(server, "num_requests_waiting"):
        assert time.monotonic() < deadline, "sequences of clients that left are still there"
        time.sleep(0.2)


def resident_mib(server: Server) -> float:
    """Memory of the server's process."""
    return float(psutil.Process(server.process.pid).memory_info().rss / 2**20)
