"""What generation needs of the engine's streams."""

from __future__ import annotations

from typing import Protocol, Self

from predictor.engine.request import Delta


class RequestStream(Protocol):
    """The deltas of one request, in order; the last one has a `finish_reason`."""

    def __aiter__(self) -> Self: ...

    async def __anext__(self) -> Delta: ...

    def cancel(self) -> None:
        """Free the sequence; safe to call at any time, also after the end."""
