"""Keeps a server busy, and tells whether it is, for tests of queues, cancellation and shutdown.

All of it is for a server that was started with `NARROW`: one sequence runs, one waits, a third is refused.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from server_process import Server

NARROW = ("--max-sequences", "1", "--max-queue", "1")
ENDLESS = 3500
"""Tokens that take longer than any test waits: half a minute and more."""


def completion(server: Server, tokens: int, **fields: Any) -> dict[str, Any]:
    """Body of an OpenAI completion of exactly so many tokens."""
    return {
        "model": server.model_name,
        "prompt": "The sea",
        "max_tokens": tokens,
        "ignore_eos": True,
        "temperature": 0,
        **fields,
    }


@contextmanager
def stream(server: Server, tokens: int = ENDLESS) -> Iterator[httpx.Response]:
    """A streamed completion that the server has admitted; leaving the block disconnects."""
    body = completion(server, tokens, stream=True, stream_options={"include_usage": True})
    url = f"{server.http_url}/v1/completions"
    with httpx.stream("POST", url, json=body, timeout=120) as response:
        assert response.status_code == 200, response.read()
        yield response


def events(response: httpx.Response) -> Iterator[Any]:
    """The events still to come: JSON objects, and `[DONE]` as text. Comments only say that it lives."""
    for line in response.iter_lines():
        if line and not line.startswith(":"):
            data = line.removeprefix("data: ")
            yield data if data == "[DONE]" else json.loads(data)


def ask(server: Server, timeout: float = 60, **fields: Any) -> httpx.Response:
    """One token from the server."""
    body = completion(server, 1, **fields)
    return httpx.post(f"{server.http_url}/v1/completions", json=body, timeout=timeout)


def wait_until_running(server: Server) -> None:
    """Wait until the request that somebody else has just sent is running."""
    _wait_until(server, 429, "the request has not arrived")


def wait_until_idle(server: Server) -> None:
    """Wait until nothing runs or waits any more."""
    _wait_until(server, 200, "the last requests are still running")


def _wait_until(server: Server, status: int, problem: str) -> None:
    """Send calls of two instances, which fit into an idle server only, until one is answered so."""
    url = f"{server.http_url}/v1/models/{server.model_name}:predict"
    instance = {"prompt": "a", "max_tokens": 1}
    deadline = time.monotonic() + 30
    while httpx.post(url, json={"instances": [instance, instance]}, timeout=60).status_code != status:
        assert time.monotonic() < deadline, problem
        time.sleep(0.02)


def assert_freed(server: Server, leave: Callable[[], object]) -> None:
    """After `leave` the endless request that runs is gone: another is answered long before its end."""
    leave()
    assert ask(server, timeout=8).status_code == 200
