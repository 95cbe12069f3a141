"""What a load gave, request by request, and the arithmetic on it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One streamed request as its client saw it. All times are in seconds.

    Attributes:
        started: when the request was sent, on the clock of `time.perf_counter`.
        token_times: arrival of each chunk that carried text, since `started`. A server may put several
            tokens into one chunk or hold a token back, so tokens are never counted from it.
        duration: from sending to the end of the response.
        prompt_tokens: from the server's usage.
        completion_tokens: from the server's usage.
        cached_tokens: prompt tokens the server says it did not compute again.
        error: what went wrong, None where nothing did.
    """

    started: float
    token_times: tuple[float, ...]
    duration: float
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    error: str | None = None

    @property
    def time_to_first_token(self) -> float | None:
        """Seconds from sending to the first text; None where none came."""
        return self.token_times[0] if self.token_times else None

    @property
    def inter_token_latencies(self) -> tuple[float, ...]:
        """Seconds between consecutive chunks with text."""
        return tuple(b - a for a, b in pairwise(self.token_times))

    @property
    def seconds_per_token(self) -> float | None:
        """Mean seconds between two tokens after the first; None where there are less than two.

        vLLM's benchmark calls it the time per output token, aiperf the inter-token latency.
        """
        if self.completion_tokens < 2 or not self.token_times:
            return None
        return (self.token_times[-1] - self.token_times[0]) / (self.completion_tokens - 1)

    def latencies_during(self, start: float, end: float) -> tuple[float, ...]:
        """Inter-token latencies that overlap the time from `start` to `end` on the clock of `started`."""
        times = [self.started + time for time in self.token_times]
        pairs = pairwise(times)
        return tuple(b - a for a, b in pairs if b > start and a < end)


@dataclass(frozen=True, slots=True)
class LoadResult:
    """All requests of one load.

    Attributes:
        records: one per request, in the order they were sent.
        client_cpu_seconds: what the load generator itself used while the load ran.
    """

    records: tuple[RequestRecord, ...]
    client_cpu_seconds: float

    @property
    def wall_seconds(self) -> float:
        """From the first request sent to the last response ended."""
        start = min(record.started for record in self.records)
        return max(record.started + record.duration for record in self.records) - start

    @property
    def errors(self) -> tuple[str, ...]:
        """The error of each request that failed."""
        return tuple(record.error for record in self.records if record.error is not None)

    @property
    def prompt_tokens(self) -> int:
        """Prompt tokens of all requests together."""
        return sum(record.prompt_tokens for record in self.records)

    @property
    def completion_tokens(self) -> int:
        """Generated tokens of all requests together."""
        return sum(record.completion_tokens for record in self.records)

    @property
    def output_tokens_per_second(self) -> float:
        """Generated tokens of all requests over the wall time of the load."""
        return self.completion_tokens / self.wall_seconds

    @property
    def times_to_first_token(self) -> tuple[float, ...]:
        """Of each request that got a token, in seconds."""
        times = (record.time_to_first_token for record in self.records)
        return tuple(time for time in times if time is not None)

    @property
    def inter_token_latencies(self) -> tuple[float, ...]:
        """Of all requests together, in seconds."""
        return tuple(gap for record in self.records for gap in record.inter_token_latencies)


def percentile(values: Iterable[float], percent: float) -> float:
    """The value below which `percent` of the values lie, with linear interpolation between neighbours.

    Raises:
        ValueError: there are no values.
    """
    array = np.fromiter(values, dtype=float)
    if not array.size:
        raise ValueError("no values: nothing was measured")
    return float(np.percentile(array, percent))
