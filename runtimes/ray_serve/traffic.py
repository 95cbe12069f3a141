"""Divides requests between the stable model and a canary."""

from __future__ import annotations


class TrafficSplit:
    """Says of each request whether it is the canary's; of any hundred, exactly its share is.

    Args:
        percent: the canary's share, 0 to 100.

    Raises:
        ValueError: the share is something else.
    """

    def __init__(self, percent: int) -> None:
        if not (isinstance(percent, int) and 0 <= percent <= 100):
            raise ValueError(f"canary_percent must be a whole number from 0 to 100, not {percent!r}")
        self._percent = percent
        self._owed = 0

    def next_is_canary(self) -> bool:
        """Decide the next request."""
        self._owed += self._percent
        if self._owed < 100:
            return False
        self._owed -= 100
        return True
