"""Server-sent events over the engine's streams, for every protocol that streams."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from predictor.engine.request import Delta
from predictor.errors import PredictorError
from predictor.generation.streams import RequestStream

logger = logging.getLogger(__name__)

DONE = b"data: [DONE]\n\n"


class EventStream(Response):
    """A `text/event-stream` answer that frees its sequences however it ends.

    Starlette's own streaming response leaves a generator to the garbage collector when its task is cancelled
    during a send, and starts a task group for each answer; here the sequences are cancelled at once.

    Args:
        events: complete events, `data: ...` and an empty line.
        streams: what the events are made from.
        headers: more headers of the answer.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncIterator[bytes],
        streams: Sequence[RequestStream],
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        # Proxies must neither keep nor gather the events.
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no", **headers})
        del self.headers["content-length"]
        self._events = events
        self._streams = streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events as they come."""
        try:
            await send(
                {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
            )
            async for event in self._events:
                await send({"type": "http.response.body", "body": event, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            for stream in self._streams:
                stream.cancel()


def sse(payload: Mapping[str, Any]) -> bytes:
    """One event with a JSON object."""
    return b"data: " + orjson.dumps(payload) + b"\n\n"


async def ending_with_error(
    events: AsyncIterator[bytes], as_payload: Callable[[Exception], Mapping[str, Any]]
) -> AsyncGenerator[bytes, None]:
    """The same events; an error in mid-stream becomes a last event, since the status has been sent.

    Args:
        events: the events to pass on.
        as_payload: turns an error into the JSON object of the protocol.
    """
    try:
        async for event in events:
            yield event
    except PredictorError as error:
        logger.warning("a stream ended early: %s", error)
        yield sse(as_payload(error))
    except Exception as error:
        logger.exception("a stream failed")
        yield sse(as_payload(error))


async def interleaved(streams: Sequence[RequestStream]) -> AsyncGenerator[tuple[int, Delta], None]:
    """Deltas of all streams as they come, each with its stream's index.

    Raises:
        NotReady: the server was shut down.
        EngineFailure: llama.cpp failed.
    """
    if len(streams) == 1:
        async for delta in streams[0]:
            yield 0, delta
        return
    merged: asyncio.Queue[tuple[int, Delta | BaseException | None]] = asyncio.Queue()
    tasks = [asyncio.create_task(_forward(i, stream, merged)) for i, stream in enumerate(streams)]
    try:
        running = len(tasks)
        while running:
            index, item = await merged.get()
            if isinstance(item, BaseException):
                raise item
            if item is None:
                running -= 1
            else:
                yield index, item
    finally:
        for task in tasks:
            task.cancel()


async def _forward(
    index: int, stream: RequestStream, merged: asyncio.Queue[tuple[int, Delta | BaseException | None]]
) -> None:
    try:
        async for delta in stream:
            merged.put_nowait((index, delta))
    except Exception as error:
        merged.put_nowait((index, error))
    else:
        merged.put_nowait((index, None))
