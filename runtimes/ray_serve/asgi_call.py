"""One request to an ASGI application, without a server: the answer's messages come in batches."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Self

from starlette.types import ASGIApp, Message, Scope

logger = logging.getLogger(__name__)

# What of a scope can cross to another process and means something there.
SCOPE_KEYS = (
    *("type", "asgi", "http_version", "method", "scheme", "path", "raw_path", "query_string", "root_path"),
    *("headers", "client", "server"),
)


class AsgiCall:
    """Runs the application on a task of its own; leaving the block early tells it that the client left.

    Args:
        app: the application.
        scope: of an HTTP request.
        body: the whole request body.
    """

    def __init__(self, app: ASGIApp, scope: Scope, body: bytes) -> None:
        self._app = app
        self._scope = scope
        self._body: bytes | None = body
        self._answer: asyncio.Queue[Message | None] = asyncio.Queue()
        self._left = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._left.set()
        await asyncio.wait((self._task,))

    async def __aiter__(self) -> AsyncIterator[list[Message]]:
        """All messages that are there, whenever there are any."""
        while (first := await self._answer.get()) is not None:
            messages = [first]
            while not self._answer.empty() and (message := self._answer.get_nowait()) is not None:
                messages.append(message)
            yield messages
            if self._task.done() and self._answer.empty():
                return

    async def _run(self) -> None:
        try:
            await self._app(self._scope, self._receive, self._send)
        except Exception:
            logger.exception("%s %s failed", self._scope["method"], self._scope["path"])
        finally:
            self._answer.put_nowait(None)

    async def _receive(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        self._answer.put_nowait(message)
