"""ASGI middleware for every HTTP route, kserve's own included. One class per job, plain ASGI throughout."""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from predictor.access.gate import Gate
from predictor.api.http.access import RequireKey
from predictor.api.http.bodies import BodyReader
from predictor.api.http.error_forms import ANTHROPIC, error_form
from predictor.api.http.errors import error_response
from predictor.errors import PredictorError, RequestTooLarge

_request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
_path: ContextVar[str | None] = ContextVar("path", default=None)
_SAFE_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
_RETRY_STATUSES = (429, 503)


def install_middleware(
    app: Starlette,
    *,
    max_body_bytes: int,
    gate: Gate | None = None,
    open_routes: bool = True,
    cors_origins: Sequence[str] = (),
) -> None:
    """Put every middleware around `app`, in the order they need.

    Args:
        app: the application.
        max_body_bytes: largest body accepted.
        gate: checks API keys; None lets everybody in.
        open_routes: whether health and metrics need no key.
        cors_origins: pages of these origins may call from a browser.
    """
    # The last one added is the outermost: nobody's body is read before the key, browsers ask for permission
    # without one, bodies are counted while read, and every answer gets an id.
    app.add_middleware(HeadAsGet)
    app.add_middleware(CancelOnDisconnect, reader=BodyReader(max_body_bytes))
    app.add_middleware(BodyLimit, max_bytes=max_body_bytes)
    if gate is not None:
        app.add_middleware(RequireKey, gate=gate, open_routes=open_routes)
    if cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=cors_origins,
            allow_methods=("GET", "POST"),
            allow_headers=("*",),
            expose_headers=("x-request-id", "retry-after"),
        )
    app.add_middleware(RetryAfter)
    app.add_middleware(RequestId)


def current_request_id() -> str | None:
    """The id of the request being handled, for logs; None outside of one."""
    return _request_id.get()


def current_path() -> str | None:
    """The path of the HTTP request being handled, for logs; None outside of one."""
    return _path.get()


@contextmanager
def request_identity(request_id: str, path: str | None) -> Iterator[str]:
    """Within the block, `current_request_id` and `current_path` tell of this request.

    Args:
        request_id: the caller's; replaced unless it is short and of harmless characters, for the logs.
        path: of an HTTP request.
    """
    if not _SAFE_ID.fullmatch(request_id):
        request_id = uuid.uuid4().hex
    token, path_token = _request_id.set(request_id), _path.set(path)
    try:
        yield request_id
    finally:
        _request_id.reset(token)
        _path.reset(path_token)


class RequestId:
    """Gives every request an id and echoes it as `x-request-id`, for Anthropic's clients as `request-id` too.

    kserve logs the request header, so the header is set on the way in as well.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the app; see the class."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = MutableHeaders(scope=scope)
        with request_identity(headers.get("x-request-id", ""), scope["path"]) as request_id:
            headers["x-request-id"] = request_id
            names = ["x-request-id"]
            if error_form(scope["path"]) is ANTHROPIC:
                names.append("request-id")

            async def send_with_id(message: Message) -> None:
                if message["type"] == "http.response.start":
                    MutableHeaders(scope=message).update(dict.fromkeys(names, request_id))
                await send(message)

            await self.app(scope, receive, send_with_id)


class RetryAfter:
    """Adds `Retry-After` to an answer that invites a later try, where it isn't there yet.

    Args:
        app: the application.
        seconds: the value.
    """

    def __init__(self, app: ASGIApp, seconds: int = 5) -> None:
        self.app = app
        self.seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the app; see the class."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_hint(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] in _RETRY_STATUSES:
                MutableHeaders(scope=message).setdefault("retry-after", str(self.seconds))
            await send(message)

        await self.app(scope, receive, send_with_hint)


class BodyLimit:
    """Answers 413 to a request body over a limit, whether its length is announced or not.

    Args:
        app: the application.
        max_bytes: largest body accepted.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the app; see the class."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refusal = RequestTooLarge(f"the request body is over the limit of {self.max_bytes} bytes; send less")
        length = Headers(scope=scope).get("content-length", "")
        if length.isdigit() and int(length) > self.max_bytes:
            await error_response(refusal, scope)(scope, receive, send)
            return
        received = 0

        async def counted_receive() -> Message:
            nonlocal received
            message = await receive()
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
                if received > self.max_bytes:
                    raise refusal
            return message

        async def send_unless_refused(message: Message) -> None:
            # FastAPI turns an error while reading the body into a 400 of its own.
            if received <= self.max_bytes:
                await send(message)

        try:
            await self.app(scope, counted_receive, send_unless_refused)
        except RequestTooLarge as error:
            if error is not refusal:
                raise
        if received > self.max_bytes:
            await error_response(refusal, scope)(scope, receive, send)


class CancelOnDisconnect:
    """Cancels the handling of a POST when its client goes away, so that its sequences are freed.

    The body is read to its end first; from then on the only message to come is the disconnect.

    Args:
        app: the application.
        reader: reads the bodies.
    """

    def __init__(self, app: ASGIApp, reader: BodyReader) -> None:
        self.app = app
        self.reader = reader

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the app; see the class."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        with self.reader.hold() as room:
            try:
                body = await self.reader.read(room, scope, receive)
            except PredictorError as error:
                await error_response(error, scope)(scope, receive, send)
                return
            if body is not None:
                await self._answer(body, scope, receive, send)

    async def _answer(self, body: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        answered = False

        async def watched_send(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                answered = True  # Servers report a disconnect after the answer, too.
            await send(message)

        gone = asyncio.create_task(_disconnected(receive))
        work = asyncio.ensure_future(self.app(scope, _replay(body, gone), watched_send))
        try:
            await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
            if not work.done() and not answered:
                work.cancel()
                await asyncio.wait((work,))
            if not work.cancelled():
                await work
        finally:
            gone.cancel()
            work.cancel()


class HeadAsGet:
    """Answers HEAD wherever there is GET; the server leaves out the body, but not its length."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the app; see the class."""
        is_head = scope["type"] == "http" and scope["method"] == "HEAD"
        await self.app({**scope, "method": "GET"} if is_head else scope, receive, send)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _replay(body: bytes, gone: asyncio.Task[None]) -> Receive:
    """A `receive` that gives the body once and then waits for the disconnect."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        if messages:
            return messages.pop()
        await asyncio.wait((gone,))
        return {"type": "http.disconnect"}

    return receive
