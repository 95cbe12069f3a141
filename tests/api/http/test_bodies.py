"""Bodies: compressed ones, unfinished ones, and JSON that is costly to read."""

from __future__ import annotations

import gzip
import json
import socket
import time
import zlib
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictor.api.http import json_structure
from predictor.api.http.bodies import BODIES, inflated
from predictor.api.http.json_structure import check_structure
from predictor.errors import InvalidRequest, RequestTooLarge

CHAT = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}).encode()


def gzipped(data: bytes) -> bytes:
    """The same at every call, since the bytes are part of a test's name."""
    return gzip.compress(data, mtime=0)


def raw_deflate(data: bytes) -> bytes:
    return zlib.compress(data, wbits=-15)


def post(scripted: Any, content: bytes, encoding: str, path: str = "/v1/chat/completions") -> Any:
    headers = {"Content-Encoding": encoding, "Content-Type": "application/json"}
    return scripted.http.post(path, content=content, headers=headers)


@pytest.mark.parametrize(
    ("encoding", "content"),
    [
        ("gzip", gzipped(CHAT)),
        ("GZIP", gzipped(CHAT[:10]) + gzipped(CHAT[10:])),
        ("x-gzip", gzipped(CHAT)),
        ("deflate", zlib.compress(CHAT)),
        ("deflate", raw_deflate(CHAT)),
        ("identity", CHAT),
        ("", CHAT),
    ],
)
def test_compressed_requests(scripted: Any, encoding: str, content: bytes) -> None:
    answer = post(scripted, content, encoding)
    assert answer.status_code == 200, answer.text
    assert bytes(scripted.engine.requests[0].prompt) == b"[user]Hi[assistant]"


@pytest.mark.parametrize(
    ("encoding", "content", "status", "expected"),
    [
        ("br", CHAT, 415, "Content-Encoding 'br' can't be read: send gzip, deflate or plain JSON"),
        ("zstd", CHAT, 415, "zstd"),
        ("gzip, gzip", CHAT, 415, "compressed 2 times"),
        ("gzip", CHAT, 400, "isn't gzip data"),
        ("deflate", b"\xff" * 10, 400, "isn't deflate data"),
        ("gzip", gzipped(CHAT)[:-9], 400, "ends in the middle of its gzip data"),
        ("gzip", gzipped(b" " * 200_000), 413, "over the limit of 100000 bytes once it is inflated"),
    ],
)
def test_what_cannot_be_inflated(
    scripted: Any, encoding: str, content: bytes, status: int, expected: str
) -> None:
    answer = post(scripted, content, encoding)
    assert answer.status_code == status
    assert expected in answer.json()["error"]["message"]
    plain = post(scripted, content, encoding, "/predict")
    assert (plain.status_code, expected in plain.json()["error"]) == (status, True)


@given(st.binary(max_size=3000), st.sampled_from(["gzip", "deflate"]), st.integers(0, 4000))
def test_whatever_is_called_compressed_is_inflated_or_refused(data: bytes, encoding: str, cut: int) -> None:
    whole = gzipped(data) if encoding == "gzip" else zlib.compress(data)
    assert inflated(whole, encoding, 3000) == data
    for broken in (whole[:cut], data, whole + data):
        try:
            assert len(inflated(broken, encoding, 100)) <= 100
        except (InvalidRequest, RequestTooLarge):
            continue


def begin(scripted: Any, length: int, sent: int) -> socket.socket:
    """A request of which only a part of the body is sent."""
    place = urlsplit(scripted.url)
    connection = socket.create_connection((place.hostname, place.port), timeout=10)
    head = f"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n"
    connection.sendall(head.encode() + b" " * sent)
    return connection


def test_the_slowest_of_too_many_unfinished_bodies_gives_way(scripted: Any) -> None:
    connections = [begin(scripted, 100_000, 99_000)]
    time.sleep(0.2)
    connections += [begin(scripted, 100_000, 99_000) for _ in range(BODIES + 1)]
    assert connections[0].recv(65536).startswith(b"HTTP/1.1 503")
    # Whoever sends its body whole is served meanwhile.
    assert scripted.http.post("/echo", content=b" " * 90_000).json() == 90_000
    for connection in connections:
        connection.close()
    time.sleep(0.2)
    rest = [begin(scripted, 100_000, 99_000) for _ in range(BODIES)]
    for connection in rest:
        connection.sendall(b" " * 1000)
    assert all(connection.recv(65536).startswith(b"HTTP/1.1 200") for connection in rest)
    for connection in rest:
        connection.close()


VALUES = st.recursive(
    st.none() | st.integers() | st.text('a,:[]{}"\\\n', max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text('a,:[]{}"\\', max_size=4), inner),
    max_leaves=30,
)


def count(value: Any) -> tuple[int, int, int, int]:
    """Commas, members of objects, lists with objects, and depth of a JSON value."""
    if not isinstance(value, list | dict):
        return 0, 0, 0, 0
    parts = [count(part) for part in (value.values() if isinstance(value, dict) else value)]
    values, names, lists, depths = zip(*parts, strict=True) if parts else ((), (), (), ())
    own = len(value) if isinstance(value, dict) else 0
    commas = max(0, len(value) - 1)
    return commas + sum(values), own + sum(names), 1 + sum(lists), 1 + max(depths, default=0)


@given(VALUES, st.integers(3, 50))
def test_structure_is_counted_outside_of_strings(value: Any, size: int) -> None:
    values, names, lists, depth = count(value)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_structure, "_SLICE", size)
        limits = {"MAX_VALUES": values, "MAX_NAMES": names, "MAX_LISTS": lists, "MAX_DEPTH": depth}
        for name, most in limits.items():
            patch.setattr(json_structure, name, most)
        check_structure(json.dumps(value).encode())
        for name, most in limits.items():
            if most > 0:
                patch.setattr(json_structure, name, most - 1)
                with pytest.raises(InvalidRequest):
                    check_structure(json.dumps(value).encode())
                patch.setattr(json_structure, name, most)
