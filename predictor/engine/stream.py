"""The way back from the decode thread to the event loop of whoever asked."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict, deque
from collections.abc import Callable
from functools import partial
from typing import Self

from predictor.engine.request import Delta

logger = logging.getLogger(__name__)

Item = Delta | Exception


class TokenStream:
    """Deltas of one sequence as an async iterator; ends after the delta with a finish reason.

    Everything but the constructor runs on the event loop that `loop` is. Iterating raises `EngineFailure` or
    `NotReady` where the engine gave up on the sequence.

    Args:
        loop: the event loop of the reader.
        on_cancel: tells the engine to free the sequence; safe to call from the loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, on_cancel: Callable[[], None]) -> None:
        self.loop = loop
        self._on_cancel = on_cancel
        self._items: deque[Item] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._ended = False

    def put(self, item: Item) -> None:
        """Hand over the next delta, or the error that ends the stream."""
        self._items.append(item)
        self._ended = self._ended or isinstance(item, Exception) or item.finish_reason is not None
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def cancel(self) -> None:
        """Free the sequence within one step of the engine; nothing happens if it has ended."""
        if not self._ended:
            self._on_cancel()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Delta:
        while not self._items:
            if self._ended:
                raise StopAsyncIteration
            self._waiter = self.loop.create_future()
            await self._waiter
        item = self._items.popleft()
        if isinstance(item, Exception):
            raise item
        return item


class Outbox:
    """What the decode thread has for readers, kept until it wakes them: once per event loop, not per item."""

    def __init__(self) -> None:
        self._items: defaultdict[asyncio.AbstractEventLoop, list[tuple[TokenStream, Item]]]
        self._items = defaultdict(list)

    def put(self, stream: TokenStream, item: Item) -> None:
        """Keep an item for a stream."""
        self._items[stream.loop].append((stream, item))

    def send(self) -> None:
        """Wake each event loop once for all that there is for it."""
        for loop, items in self._items.items():
            try:
                loop.call_soon_threadsafe(partial(_deliver, items))
            except RuntimeError:
                logger.debug("the reader's event loop is closed; its %d deltas are dropped", len(items))
        self._items.clear()


def _deliver(items: list[tuple[TokenStream, Item]]) -> None:
    for stream, item in items:
        stream.put(item)
