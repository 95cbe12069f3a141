"""Divides requests between the stable model and a canary."""

from __future__ import annotations

import random


class TrafficSplit:
    """Says of each request whether it is the canary's, by a draw.

    Every so-many-th request would not do: where two kinds of requests take turns, the canary would get one
    kind only, and be compared with a stable model that gets the other.

    Args:
        percent: the canary's share, 0 to 100.
        draw: the source of chance.

    Raises:
        ValueError: the share is something else.
    """

    def __init__(self, percent: int, draw: random.Random | None = None) -> None:
        if not (isinstance(percent, int) and 0 <= percent <= 100):
            raise ValueError(f"canary_percent must be a whole number from 0 to 100, not {percent!r}")
        self._percent = percent
        self._draw = draw or random.Random()  # noqa: S311

    def next_is_canary(self) -> bool:
        """Decide the next request."""
        return self._draw.random() * 100 < self._percent
