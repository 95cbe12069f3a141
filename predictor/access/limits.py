"""How much one caller may ask at once and per minute."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from predictor.errors import RateLimited

MINUTE = 60.0


@dataclass(slots=True)
class CallerUsage:
    """What one caller uses now.

    The rate is a token bucket: a minute's worth of calls may come at once, then they become free again
    evenly.

    Attributes:
        running: calls that have begun and not ended.
        spent: calls that the bucket has given out and not got back yet.
        updated: when `spent` was computed, in monotonic seconds.
    """

    running: int = 0
    spent: float = 0.0
    updated: float = 0.0

    def begin(self, requests_per_minute: int | None, max_concurrent: int | None) -> None:
        """Count a call in; whoever does calls `end` too.

        Raises:
            RateLimited: a limit is reached; the call isn't counted then.
        """
        if max_concurrent is not None and self.running >= max_concurrent:
            raise RateLimited(
                f"{self.running} calls with this API key are running, and {max_concurrent} is its limit: "
                "wait for one to end"
            )
        if requests_per_minute is not None:
            self._spend(requests_per_minute)
        self.running += 1

    def end(self) -> None:
        """Count a call out."""
        self.running -= 1

    def _spend(self, requests_per_minute: int) -> None:
        now, rate = time.monotonic(), requests_per_minute / MINUTE
        self.spent = max(0.0, self.spent - (now - self.updated) * rate)
        self.updated = now
        if self.spent + 1 > requests_per_minute:
            wait = max(1, math.ceil((self.spent + 1 - requests_per_minute) / rate))
            raise RateLimited(
                f"this API key may make {requests_per_minute} calls a minute: try again in {wait} s",
                retry_after=wait,
            )
        self.spent += 1
