"""Middleware on a real server: limits, disconnects, ids, hints."""

from __future__ import annotations

import socket
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from fastapi import FastAPI
from scripted_engine import FOREVER

from predictor.api.http.middleware import BodyLimit
from predictor.engine.request import Delta

CHAT = b'{"model":"tiny","messages":[{"role":"user","content":"Hi"}],"stream":%b}'


def send_and_leave(url: str, path: str, body: bytes, *, after: bytes = b"") -> None:
    """Send a request, read until `after` has come, and close the connection."""
    place = urlsplit(url)
    with socket.create_connection((place.hostname, place.port), timeout=5) as connection:
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        received = b""
        while after not in received:
            received += connection.recv(65536)
        time.sleep(0.1)


def eventually(condition: Any) -> bool:
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize(("stream", "after"), [(b"true", b'"content":"a"'), (b"false", b"")])
def test_sequences_are_freed_when_the_client_leaves(scripted: Any, stream: bytes, after: bytes) -> None:
    scripted.engine.scripts = [[Delta("a"), FOREVER]]
    send_and_leave(scripted.url, "/v1/chat/completions", CHAT % stream, after=after)
    assert eventually(lambda: scripted.engine.streams and scripted.engine.streams[0].cancelled.is_set())


def test_any_handler_is_cancelled_when_the_client_leaves(scripted: Any) -> None:
    send_and_leave(scripted.url, "/v1/models/slow:predict", b"{}")
    assert eventually(lambda: scripted.ended == ["started", "ended"])


def test_what_follows_the_answer_is_not_cancelled(scripted: Any) -> None:
    for _ in range(3):
        assert scripted.http.post("/afterwards").json() == "ok"
    assert eventually(lambda: scripted.ended == ["finished"] * 3)


def test_a_body_over_the_limit_is_refused_with_and_without_a_length(scripted: Any) -> None:
    big = b" " * 100_001
    for path, message in (("/v1/chat/completions", ["error", "message"]), ("/echo", ["error"])):
        for content in (big, iter([big[:50_000], big[50_000:]])):
            response = scripted.http.post(path, content=content)
            assert response.status_code == 413
            value = response.json()
            for key in message:
                value = value[key]
            assert "over the limit of 100000 bytes" in value
    assert scripted.http.post("/echo", content=big[1:]).json() == 100_000
    assert scripted.http.post("/echo", content=iter([big[:50_000], big[50_001:]])).json() == 100_000


async def test_the_limit_holds_where_the_app_reads_the_body_itself() -> None:
    """FastAPI hides an error met while reading a body behind a 400 of its own."""
    app = FastAPI()
    app.add_middleware(BodyLimit, max_bytes=10)

    @app.post("/typed")
    async def typed(body: dict[str, str]) -> int:
        return len(body)

    async def pieces() -> AsyncIterator[bytes]:
        yield b'{"a": '
        yield b'"long"}'

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        response = await client.post("/typed", content=pieces())
    assert (response.status_code, "limit of 10 bytes" in response.json()["error"]) == (413, True)


def test_retry_after_is_added_where_it_is_missing(scripted: Any) -> None:
    response = scripted.post("/busy", {})
    assert (response.status_code, response.headers["retry-after"]) == (503, "5")


def test_the_request_id_is_kept_or_made(scripted: Any) -> None:
    sent = scripted.http.get("/v1/models", headers={"x-request-id": "my-id.1"})
    assert sent.headers["x-request-id"] == "my-id.1"
    made = {scripted.http.get("/v1/models").headers["x-request-id"] for _ in range(2)}
    assert len(made) == 2
    for hostile in ("a b", "x" * 200, "a\tb"):
        echoed = scripted.http.get("/v1/models", headers={"x-request-id": hostile}).headers["x-request-id"]
        assert echoed != hostile
        assert len(echoed) == 32


def test_the_request_id_reaches_the_engine(scripted: Any) -> None:
    body = {"model": "tiny", "prompt": "Hi"}
    scripted.http.post("/v1/completions", json=body, headers={"x-request-id": "from-caller"})
    assert scripted.engine.requests[0].id == "from-caller"
