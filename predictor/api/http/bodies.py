"""Request bodies: read whole, inflated, and never more of them than there is memory for."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import Receive, Scope

from predictor.api.http.json_structure import check_structure
from predictor.errors import InvalidRequest, RequestTooLarge, Unavailable, UnknownEncoding

BODIES = 16
"""How many bodies of the largest size there is memory for."""

_BINARY_JSON_LENGTH = "inference-header-content-length"
# Which of the two formats called deflate it is shows in its first byte.
_WINDOW_BITS = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}


@dataclass(eq=False, slots=True)
class _Body:
    """A body on its way, or that of a request being answered."""

    task: asyncio.Task[object] | None
    parts: list[bytes] = field(default_factory=list)
    size: int = 0
    is_given_up: bool = False


class BodyReader:
    """Reads the bodies of an application's requests; belongs to the event loop.

    All bodies together, those still arriving and those of requests being answered, are held to `BODIES` times
    the limit of one. When that is reached, the body that has been arriving for longest is given up: whoever
    sends in an orderly way is done long before.

    Args:
        max_bytes: of one body, as sent and inflated.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._arriving: dict[_Body, None] = {}
        self._held = 0

    @contextmanager
    def hold(self) -> Iterator[_Body]:
        """Room for one body, from its first byte until its request has been answered."""
        body = _Body(asyncio.current_task())
        try:
            yield body
        finally:
            self._arriving.pop(body, None)
            self._held -= body.size

    async def read(self, body: _Body, scope: Scope, receive: Receive) -> bytes | None:
        """The whole body, inflated; None when the client left before its end.

        The scope's headers are changed to fit.

        Raises:
            RequestTooLarge: it is over the limit when inflated.
            UnknownEncoding: it is compressed in a way that isn't known here.
            InvalidRequest: it isn't what its encoding says, or has too many values in it.
            Unavailable: there was no memory for it.
        """
        encodings = _encodings(Headers(scope=scope))
        self._arriving[body] = None
        try:
            async for part in _parts(receive):
                if part is None:
                    return None
                self._add(body, part)
        except asyncio.CancelledError:
            if not body.is_given_up or body.task is None or body.task.uncancel():
                raise
            raise _no_memory() from None
        finally:
            self._arriving.pop(body, None)
        whole = b"".join(body.parts)
        body.parts.clear()
        for encoding in reversed(encodings):
            whole = inflated(whole, encoding, self._max_bytes)
        if encodings:
            headers = MutableHeaders(scope=scope)
            del headers["content-encoding"]
            headers["content-length"] = str(len(whole))
            self._count(body, len(whole) - body.size)
        check_structure(whole[: _json_length(scope, whole)])
        return whole

    def _add(self, body: _Body, part: bytes) -> None:
        body.parts.append(part)
        self._count(body, len(part))

    def _count(self, body: _Body, growth: int) -> None:
        body.size += growth
        self._held += growth
        if self._held <= BODIES * self._max_bytes:
            return
        slowest = next(iter(self._arriving), body)
        if slowest is body or slowest.task is None:
            raise _no_memory()
        self._arriving.pop(slowest)
        slowest.is_given_up = True
        slowest.task.cancel()


def inflated(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """A compressed body as it was.

    Args:
        body: all of it.
        encoding: one of those that `Content-Encoding` names.
        max_bytes: most that may come out of it.

    Raises:
        RequestTooLarge: more comes out.
        InvalidRequest: it is damaged or isn't compressed like that.
    """
    bits = _WINDOW_BITS[encoding]
    if encoding == "deflate" and body and body[0] & 0x0F != zlib.DEFLATED:
        bits = -zlib.MAX_WBITS
    whole, rest = bytearray(), body
    try:
        while rest:
            stream = zlib.decompressobj(bits)
            whole += stream.decompress(rest, max_bytes + 1 - len(whole))
            if len(whole) > max_bytes:
                raise RequestTooLarge(
                    f"the request body is over the limit of {max_bytes} bytes once it is inflated; send less"
                )
            if not stream.eof:
                raise InvalidRequest(f"the body ends in the middle of its {encoding} data")
            rest = stream.unused_data
    except zlib.error:
        raise InvalidRequest(
            f"the body isn't {encoding} data, though its header Content-Encoding says so"
        ) from None
    return bytes(whole)


def _encodings(headers: Headers) -> list[str]:
    """What was done to a body, in order.

    Raises:
        UnknownEncoding: something that can't be undone here.
    """
    names = [
        name.strip().lower() for value in headers.getlist("content-encoding") for name in value.split(",")
    ]
    names = [name for name in names if name not in ("", "identity")]
    for name in names:
        if name not in _WINDOW_BITS:
            raise UnknownEncoding(
                f"Content-Encoding {name[:40]!r} can't be read: send gzip, deflate or plain JSON"
            )
    if len(names) > 1:
        raise UnknownEncoding(f"the body is compressed {len(names)} times: once is read")
    return names


async def _parts(receive: Receive) -> AsyncIterator[bytes | None]:
    """The parts of a body; None when the client leaves."""
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            yield None
            return
        yield message.get("body", b"")
        more = message.get("more_body", False)


def _json_length(scope: Scope, body: bytes) -> int:
    """How much of a body is JSON: with V2's binary tensors, what is in front of them."""
    length = Headers(scope=scope).get(_BINARY_JSON_LENGTH, "")
    return int(length) if length.isdecimal() and len(length) < 20 else len(body)


def _no_memory() -> Unavailable:
    return Unavailable(
        "there was no memory left for the request's body beside those of others; send it again", retry_after=5
    )
