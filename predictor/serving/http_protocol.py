"""uvicorn's HTTP/1.1 for clients of any kind: bounded in size and time, and lenient where HTTP is.

uvicorn keeps a request's head whatever its size, waits for its end and for a reader for ever, drops the body
of a request that offers HTTP/2, answers HTTP/1.0 in chunks, and doesn't notice that a client has left which
had sent another request behind the first.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import httptools
import orjson
import uvicorn
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from predictor.api.http.error_forms import Problem, error_form

MAX_HEAD_BYTES = 64 * 1024
"""Of a request's line and headers together; the same of its trailers."""
MAX_HEADERS = 256
MAX_AHEAD_BYTES = 256 * 1024
"""What a client may send behind a request that has no answer yet."""
LINGER_SECONDS = 2
"""How long a refused client may go on sending until it reads the refusal."""


class _RefusedError(Exception):
    """The request won't be read any further."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class BoundedHttpProtocol(HttpToolsProtocol):
    """One connection.

    Args:
        client_seconds: how long a client may take to send a request, and to take more of an answer.
        options: uvicorn's own.
    """

    def __init__(self, *, client_seconds: float, **options: Any) -> None:
        super().__init__(**options)
        self._client_seconds = client_seconds
        self._begun = False
        self._in_body = False
        self._head_bytes = 0
        self._bodiless_bytes = 0
        self._body_pieces = 0
        self._running: RequestResponseCycle | None = None
        self._ahead: list[bytes] = []
        self._ahead_bytes = 0
        self._refused = False
        self._deadline: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See `asyncio.Protocol`."""
        super().connection_made(transport)
        self._start_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`; every request that has come tells its application."""
        self._stop_deadline()
        self.resume_writing()
        for cycle in (self._running, *(cycle for cycle, _ in self.pipeline)):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
        self._ahead.clear()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        if self._ahead or self._is_answering():
            self._keep(data)
        else:
            self._take(data)

    def _take(self, data: bytes) -> None:
        if self._refused:
            return
        begun, pieces = self._begun, self._body_pieces
        try:
            self._feed(data)
        except _RefusedError as refusal:
            self._refuse(refusal)
            return
        if self._refused or self.transport.is_closing():
            return
        if begun and self._begun and pieces == self._body_pieces:
            # Neither a body nor an end came: heads and trailers, which the parser gathers piece by piece.
            self._bodiless_bytes += len(data)
            if self._bodiless_bytes > MAX_HEAD_BYTES:
                self._refuse(_RefusedError(431, f"the headers are over the limit of {MAX_HEAD_BYTES} bytes"))
                return
        if self._begun and self._deadline is None:
            self._start_deadline()

    def _feed(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            self._decline_upgrade(data[offer.args[0] :])
        except httptools.HttpParserError as error:
            if isinstance(error.__context__, _RefusedError):
                raise error.__context__ from None
            self.logger.warning("Invalid HTTP request received.")
            raise _RefusedError(400, "this is not a valid HTTP request") from None

    def _decline_upgrade(self, rest: bytes) -> None:
        """Read a request that offers another protocol as if it didn't, which the parser can't."""
        offered = self._get_upgrade() or b""
        if b"websocket" in offered:
            raise _RefusedError(400, "there are no WebSockets here: streams are server-sent events")
        if self.scope["method"] == "CONNECT":
            raise _RefusedError(405, "CONNECT is not allowed: this server is no proxy")
        version = self.parser.get_http_version().encode()
        lines = [b"%s %s HTTP/%s" % (self.scope["method"].encode(), self.url, version)]
        lines += [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn has it
        self._feed(b"\r\n".join(lines) + b"\r\n\r\n" + rest)

    def on_message_begin(self) -> None:
        """The parser met a request's first byte."""
        super().on_message_begin()
        self._begun = True
        self._head_bytes = self._bodiless_bytes = 0

    def on_url(self, url: bytes) -> None:
        """The parser has read some of the URL."""
        super().on_url(url)
        if len(self.url) > MAX_HEAD_BYTES:
            raise _RefusedError(414, f"the URL is over the limit of {MAX_HEAD_BYTES} bytes")

    def on_header(self, name: bytes, value: bytes) -> None:
        """The parser has read a header or a trailer."""
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > MAX_HEAD_BYTES or len(self.headers) >= MAX_HEADERS:
            raise _RefusedError(
                431, f"the headers are over the limit of {MAX_HEADERS} with {MAX_HEAD_BYTES} bytes together"
            )
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The parser has read all headers."""
        if self.parser.should_upgrade():
            self.scope["method"] = self.parser.get_method().decode("ascii")
        else:
            super().on_headers_complete()
            self._in_body = True

    def on_body(self, body: bytes) -> None:
        """The parser has read some of the body."""
        self._body_pieces += 1
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The parser has read the request's last byte."""
        if self.parser.should_upgrade():
            return
        self._begun = self._in_body = False
        self._stop_deadline()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """The application has answered."""
        self._running = None
        super().on_response_complete()
        if self._ahead:
            self.loop.call_soon(self._read_ahead)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        if cycle.scope["http_version"] == "1.0":
            app = _WithoutChunks(app, cycle)
        super()._start_asgi_task(cycle, app)

    def _is_answering(self) -> bool:
        """Whether a request has come whole and has no whole answer."""
        running = self._running
        return running is not None and not running.more_body and not running.response_complete

    def _keep(self, data: bytes) -> None:
        """Keep what comes behind a request until that is answered; reading on shows whether it left."""
        self._ahead.append(data)
        self._ahead_bytes += len(data)
        if self._ahead_bytes > MAX_AHEAD_BYTES:
            self.flow.pause_reading()
        else:
            self.flow.resume_reading()

    def _read_ahead(self) -> None:
        if self._is_answering() or self.transport.is_closing():
            return
        data, self._ahead, self._ahead_bytes = b"".join(self._ahead), [], 0
        self.flow.resume_reading()
        self._take(data)

    def _refuse(self, refusal: _RefusedError) -> None:
        """Answer by ourselves and read on for a while: a client that is still sending would lose it."""
        self._refused = True
        self._stop_deadline()
        self._unset_keepalive_if_required()
        if self._in_body and self.cycle.response_started:  # Nothing can be said any more.
            self.transport.close()
            return
        for cycle in (self._running, self.cycle):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
        # Of a head that isn't whole nobody knows for which protocol it is.
        form = error_form(self.scope["path"] if self._in_body else "")
        body = orjson.dumps(form.body(Problem(refusal.status, refusal.message), ""))
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(
            body
        )
        self.transport.write(STATUS_LINE[refusal.status] + head + body)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(LINGER_SECONDS, self.transport.close)

    def _start_deadline(self) -> None:
        self._stop_deadline()
        self._deadline = self.loop.call_later(self._client_seconds, self._out_of_time)

    def _stop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _out_of_time(self) -> None:
        self._deadline = None
        if self._begun:
            self._refuse(
                _RefusedError(408, f"the request has not come whole within {self._client_seconds:g} s")
            )
        else:
            self.transport.close()

    def pause_writing(self) -> None:
        """The client reads more slowly than its answer is made."""
        super().pause_writing()
        if self._unread is None:
            self._unread = self.loop.call_later(self._client_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """The client has read again."""
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None
        if self.flow is not None:
            super().resume_writing()


def use_bounded_protocol(config: uvicorn.Config, client_seconds: float) -> None:
    """Make a server speak HTTP like that, and nothing else.

    Args:
        config: the server's, before it starts.
        client_seconds: see `BoundedHttpProtocol`.
    """
    protocol: Any = partial(BoundedHttpProtocol, client_seconds=client_seconds)
    config.http, config.ws = protocol, "none"


class _WithoutChunks:
    """An application whose answers of unknown length end with the connection, as HTTP/1.0 has it.

    Args:
        app: the application.
        cycle: uvicorn's for this request, which would send chunks.
    """

    def __init__(self, app: ASGIApp, cycle: RequestResponseCycle) -> None:
        self._app = app
        self._cycle = cycle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        open_ended = False

        async def send_plain(message: Message) -> None:
            nonlocal open_ended
            if message["type"] == "http.response.start":
                open_ended = "content-length" not in Headers(raw=list(message.get("headers", [])))
                if open_ended:
                    self._cycle.chunked_encoding = False
            elif open_ended:
                # uvicorn counts down what was announced; nothing was.
                self._cycle.expected_content_length = len(message.get("body", b""))
            await send(message)

        await self._app(scope, receive, send_plain)
