"""Server-sent events over the engine's streams, for every protocol that streams."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from predictor.engine.request import Delta
from predictor.errors import PredictorError
from predictor.generation.streams import RequestStream

logger = logging.getLogger(__name__)

DONE = b"data: [DONE]\n\n"
COMMENT = b": ping\n\n"


@dataclass(frozen=True, slots=True)
class Pings:
    """What keeps a silent stream alive, so that proxies and clients don't take it for dead.

    Attributes:
        seconds: of silence before each; 0 sends none.
        event: an event or a comment that clients pass over.
    """

    seconds: float
    event: bytes = COMMENT


NO_PINGS = Pings(0)


class EventStream(Response):
    """A `text/event-stream` answer that frees its sequences however it ends, and stays alive while it waits.

    Starlette's own streaming response leaves a generator to the garbage collector when its task is cancelled
    during a send, and starts a task group for each answer; here the sequences are cancelled at once.

    Args:
        events: complete events, `data: ...` and an empty line.
        streams: what the events are made from.
        headers: more headers of the answer.
        pings: what is sent in a silence.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncIterator[bytes],
        streams: Sequence[RequestStream],
        headers: Mapping[str, str] = MappingProxyType({}),
        pings: Pings = NO_PINGS,
    ) -> None:
        # Proxies must neither keep nor gather the events.
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no", **headers})
        del self.headers["content-length"]
        self._events = events
        self._streams = streams
        self._pings = pings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events as they come."""
        sent = _PingedSend(send, self._pings)
        try:
            await send(
                {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
            )
            sent.start()
            async for event in self._events:
                await sent.body(event)
        finally:
            sent.stop()
            for stream in self._streams:
                stream.cancel()
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class _PingedSend:
    """Sends the parts of a body, and a ping whenever none was sent for a while.

    One timer looks after a stream, and only moves on when it finds that something was sent, so that a part
    costs no more than a look at the clock.
    """

    def __init__(self, send: Send, pings: Pings) -> None:
        self._send = send
        self._pings = pings
        self._loop = asyncio.get_running_loop()
        self._last = self._loop.time()
        self._is_sending = False
        self._timer: asyncio.TimerHandle | None = None
        self._ping: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._last = self._loop.time()
        if self._pings.seconds > 0:
            self._wait(self._pings.seconds)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._ping is not None:
            self._ping.cancel()

    async def body(self, part: bytes) -> None:
        if self._ping is not None:
            await self._ping
            self._ping = None
        # While a client doesn't read, it needs no ping.
        self._is_sending = True
        await self._send({"type": "http.response.body", "body": part, "more_body": True})
        self._is_sending = False
        self._last = self._loop.time()

    def _wait(self, seconds: float) -> None:
        self._timer = self._loop.call_later(seconds, self._look)

    def _look(self) -> None:
        left = self._last + self._pings.seconds - self._loop.time()
        if left <= 0 and not self._is_sending and (self._ping is None or self._ping.done()):
            self._ping = self._loop.create_task(self._send_ping())
        self._wait(left if left > 0 else self._pings.seconds)

    async def _send_ping(self) -> None:
        await self._send({"type": "http.response.body", "body": self._pings.event, "more_body": True})
        self._last = self._loop.time()


async def ending_with_error(
    events: AsyncIterator[bytes], as_event: Callable[[Exception], bytes]
) -> AsyncGenerator[bytes, None]:
    """The same events; an error in mid-stream becomes a last event, since the status has been sent.

    Args:
        events: the events to pass on.
        as_event: turns an error into the protocol's event.
    """
    try:
        async for event in events:
            yield event
    except PredictorError as error:
        logger.warning("a stream ended early: %s", error)
        yield as_event(error)
    except Exception as error:
        logger.exception("a stream failed")
        yield as_event(error)


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
