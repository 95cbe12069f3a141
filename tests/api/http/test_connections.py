"""Clients as they speak HTTP: old, odd, hostile, and gone; over plain sockets to a real server."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from scripted_engine import FOREVER, say

from predictor.engine.request import Delta
from predictor.serving.http_protocol import MAX_HEAD_BYTES, MAX_HEADERS

CLIENT_SECONDS = 2.0
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}
H2C = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABk\r\n"


def request(
    path: str, body: Any = None, headers: str = "", *, method: str = "POST", version: str = "1.1"
) -> bytes:
    content = b"" if body is None else json.dumps(body).encode()
    length = f"Content-Length: {len(content)}\r\nContent-Type: application/json\r\n" if content else ""
    return f"{method} {path} HTTP/{version}\r\nHost: x\r\n{headers}{length}\r\n".encode() + content


@pytest.fixture
def client_seconds() -> float:
    return CLIENT_SECONDS


@pytest.fixture
def connection(scripted: Any) -> Iterator[socket.socket]:
    place = urlsplit(scripted.url)
    with socket.create_connection((place.hostname, place.port), timeout=10) as connection:
        yield connection


def to_the_end(connection: socket.socket) -> bytes:
    received = b""
    while piece := connection.recv(65536):
        received += piece
    return received


def eventually(condition: Any, seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("pieces", [1, 3, 10_000])
def test_an_offer_of_http_2_is_passed_over(
    scripted: Any, connection: socket.socket, stream: bool, pieces: int
) -> None:
    """JDK's HttpClient offers it with every request."""
    scripted.engine.scripts = [say("Hel", "lo")]
    whole = request("/v1/chat/completions", {**CHAT, "stream": stream}, H2C)
    size = -(-len(whole) // pieces)
    for start in range(0, len(whole), size):
        connection.sendall(whole[start : start + size])
        time.sleep(0.05 if pieces == 3 else 0)
    # The connection stays open, and takes another request.
    connection.sendall(request("/v1/models", headers="Connection: close\r\n", method="GET"))
    first, second = to_the_end(connection).split(b"HTTP/1.1 ")[1:]
    assert first.startswith(b"200")
    assert (b'"content":"Hel"' if stream else b'"content":"Hello"') in first
    assert second.startswith(b"200")
    assert bytes(scripted.engine.requests[0].prompt) == b"[user]Hi[assistant]"


def test_websockets_are_refused(connection: socket.socket, caplog: pytest.LogCaptureFixture) -> None:
    upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    connection.sendall(request("/v2/health/live", headers=upgrade, method="GET"))
    answer = to_the_end(connection)
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"there are no WebSockets here" in answer
    assert "Traceback" not in caplog.text


def test_http_1_0_gets_its_stream_without_chunks(scripted: Any, connection: socket.socket) -> None:
    """nginx as it ships asks like that."""
    scripted.engine.scripts = [say("Hel", "lo")]
    connection.sendall(request("/v1/chat/completions", {**CHAT, "stream": True}, version="1.0"))
    head, _, body = to_the_end(connection).partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head.lower()
    assert all(line.startswith(b"data: ") for line in body.split(b"\n\n") if line)
    assert body.endswith(b"data: [DONE]\n\n")


def test_http_1_0_gets_whole_answers(connection: socket.socket) -> None:
    connection.sendall(request("/v1/chat/completions", CHAT, version="1.0"))
    head, _, body = to_the_end(connection).partition(b"\r\n\r\n")
    assert json.loads(body)["choices"][0]["message"]["content"] == "Hello"
    assert f"content-length: {len(body)}".encode() in head.lower()


@pytest.mark.parametrize("pause", [0, 0.2])
def test_a_request_sent_ahead_hides_no_disconnect(
    scripted: Any, connection: socket.socket, pause: float
) -> None:
    scripted.engine.scripts = [[Delta("a"), FOREVER]]
    asked = request("/v1/chat/completions", CHAT)
    connection.sendall(asked)
    time.sleep(pause)
    connection.sendall(asked)
    assert eventually(lambda: scripted.engine.streams)
    time.sleep(0.1)
    connection.close()
    assert eventually(lambda: scripted.engine.streams[0].cancelled.is_set())


@pytest.mark.parametrize("pause", [0, 0.2])
def test_requests_sent_ahead_are_answered_in_order(
    scripted: Any, connection: socket.socket, pause: float
) -> None:
    scripted.engine.scripts = [say("Hello")]
    ask = [request("/afterwards", {}), request("/v1/chat/completions", CHAT), request("/echo", {"a": 1})]
    for piece in [b"".join(ask)] if not pause else ask:
        connection.sendall(piece)
        time.sleep(pause)
    connection.sendall(request("/v1/models", headers="Connection: close\r\n", method="GET"))
    answers = to_the_end(connection).split(b"HTTP/1.1 ")[1:]
    for answer, expected in zip(answers, (b'"ok"', b"Hello", b"8", b'"tiny"'), strict=True):
        assert answer.startswith(b"200")
        assert expected in answer


def huge_heads() -> Iterator[Any]:
    head = b"POST /v1/completions HTTP/1.1\r\n"
    yield pytest.param(head + b"a: " + b"x" * 2_000_000, 431, id="one header")
    yield pytest.param(head + b"x" * 2_000_000, 431, id="name of a header")
    yield pytest.param(head + b"a: b\r\n" * 300_000, 431, id="many headers")
    yield pytest.param(head + b"a:\r\n" * (MAX_HEADERS + 2), 431, id="headers of nothing")
    yield pytest.param(head + b"a: " + b"x" * MAX_HEAD_BYTES + b"\r\n\r\n", 431, id="just over")
    yield pytest.param(b"GET /" + b"x" * 2_000_000, 414, id="URL")
    yield pytest.param(b"GET /v1/models?" + b"x=%20&" * 300_000 + b" HTTP/1.1\r\n\r\n", 414, id="query")
    trailers = b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nt: " + b"x" * 2_000_000
    yield pytest.param(b"POST /echo HTTP/1.1\r\n" + trailers, 431, id="trailer")
    endless_size = b"Transfer-Encoding: chunked\r\n\r\n2;" + b"x" * 2_000_000
    yield pytest.param(b"POST /echo HTTP/1.1\r\n" + endless_size, 431, id="size of a chunk")


@pytest.mark.parametrize(("sent", "status"), list(huge_heads()))
def test_a_head_without_end_is_refused(connection: socket.socket, sent: bytes, status: int) -> None:
    connection.sendall(sent)
    answer = to_the_end(connection)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert b"over the limit" in answer


def test_a_head_of_the_usual_size_is_read(connection: socket.socket) -> None:
    cookies = f"Cookie: {'x' * 30_000}\r\n" + "a: b\r\n" * 100 + "Connection: close\r\n"
    connection.sendall(request("/v1/models", headers=cookies, method="GET"))
    assert to_the_end(connection).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "sent",
    [
        b"POST /v1/completions HT",
        b"POST /v1/completions HTTP/1.1\r\nContent-Length: 100\r\n\r\n{",
        b"POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
    ],
)
def test_half_a_request_is_not_waited_for_for_ever(connection: socket.socket, sent: bytes) -> None:
    connection.sendall(sent)
    answer = to_the_end(connection)
    assert answer.startswith(b"HTTP/1.1 408")
    assert f"has not come whole within {CLIENT_SECONDS:g} s".encode() in answer


def test_a_connection_without_a_request_is_closed(connection: socket.socket) -> None:
    assert to_the_end(connection) == b""


def test_who_never_reads_is_let_go(scripted: Any) -> None:
    place = urlsplit(scripted.url)
    scripted.engine.scripts = [[*[Delta("x" * 60_000)] * 400, FOREVER]]
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect((place.hostname, place.port))
        connection.sendall(request("/v1/chat/completions", {**CHAT, "stream": True}))
        assert eventually(
            lambda: scripted.engine.streams and scripted.engine.streams[0].cancelled.is_set(), 8
        )


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/tiny"])
def test_head_is_answered_where_get_is(scripted: Any, path: str) -> None:
    got, head = scripted.http.get(path), scripted.http.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(got.content))
    assert scripted.http.head("/predict").status_code == 405


def test_garbage_gets_an_error_and_an_end(connection: socket.socket) -> None:
    connection.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
    answer = to_the_end(connection)
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"not a valid HTTP request" in answer


def test_an_answered_body_may_still_end_slowly(connection: socket.socket) -> None:
    """A body that was refused by its length: its rest gets no second answer."""
    connection.sendall(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n" + b" " * 1000)
    answer = to_the_end(connection)
    assert answer.startswith(b"HTTP/1.1 413")
    assert answer.count(b"HTTP/1.1") == 1
