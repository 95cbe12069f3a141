"""Clients that ask without a pause while something happens to the server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx

BODY: dict[str, Any] = {
    "model": "smol",
    "messages": [{"role": "user", "content": "Hi"}],
    "max_tokens": 8,
    "ignore_eos": True,
    "temperature": 0,
}


@dataclass(frozen=True)
class Answer:
    """One answer: its status, the prompt's tokens where it is 200, and the rest as text."""

    status: int
    prompt_tokens: int | None
    text: str
    retry_after: str | None = None


def ask(url: str, **fields: Any) -> Answer:
    """One request."""
    return _answer(httpx.post(f"{url}/v1/chat/completions", json={**BODY, **fields}, timeout=120))


def prompt_tokens(url: str) -> int:
    """What the model behind `url` makes of the messages."""
    tokens = ask(url).prompt_tokens
    assert tokens is not None
    return tokens


def answers_during(url: str, action: Callable[[], object], clients: int = 4, **fields: Any) -> list[Answer]:
    """The answers to all requests from before `action` until after it."""
    return asyncio.run(_load(url, action, clients, {**BODY, **fields}))


async def _load(url: str, action: Callable[[], object], clients: int, body: dict[str, Any]) -> list[Answer]:
    answers: list[Answer] = []
    stop = asyncio.Event()

    async def client(http: httpx.AsyncClient) -> None:
        while not stop.is_set():
            answers.append(_answer(await http.post("/v1/chat/completions", json=body)))

    async with httpx.AsyncClient(base_url=url, timeout=120) as http:
        tasks = [asyncio.create_task(client(http)) for _ in range(clients)]
        await _until(lambda: len(answers) >= 2 * clients)
        await asyncio.to_thread(action)
        enough = len(answers) + 3 * clients
        await _until(lambda: len(answers) >= enough)
        stop.set()
        await asyncio.gather(*tasks)
    return answers


async def _until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not is_so():
        assert time.monotonic() < deadline, "the requests hang"
        await asyncio.sleep(0.05)


def _answer(response: httpx.Response) -> Answer:
    if response.status_code != 200:
        return Answer(response.status_code, None, response.text, response.headers.get("retry-after"))
    body = response.json()
    return Answer(200, body["usage"]["prompt_tokens"], body["choices"][0]["message"]["content"])
