"""A load against any OpenAI-compatible server, and its figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any

import orjson

from predictor.client import prompts
from predictor.client.endpoint import ClientError, Endpoint
from predictor.client.load import Call, LoadGenerator, Stream
from predictor.client.records import LoadResult, percentile

PERCENTILES = (50, 95, 99)


@dataclass(frozen=True, slots=True)
class Load:
    """What is sent.

    Attributes:
        model: its name on the server.
        concurrency: requests under way at once; without effect where there is a rate.
        request_rate: mean arrivals per second, as a Poisson process; None for a closed loop.
        requests: how many are sent; None for as many as `seconds` allow.
        seconds: after this, nothing more is sent.
        prompt_tokens: about so many in each prompt, beside the chat template's; no two prompts are alike.
        output_tokens: of each answer.
        stream: whether answers are streamed; else there is no time to first token.
        exact: ask for exactly `output_tokens` by vLLM's `ignore_eos`, which not every server knows.
        seed: of prompts and arrivals.
    """

    model: str
    concurrency: int = 8
    request_rate: float | None = None
    requests: int | None = 64
    seconds: float = math.inf
    prompt_tokens: int = 128
    output_tokens: int = 64
    stream: bool = True
    exact: bool = True
    seed: int = 0

    def calls(self, endpoint: Endpoint, kind: str = "load") -> Iterator[Call]:
        """The requests, without end."""
        fields: dict[str, Any] = {"model": self.model, "max_tokens": self.output_tokens, "temperature": 0}
        if self.exact:
            fields["ignore_eos"] = True
        if self.stream:
            fields |= {"stream": True, "stream_options": {"include_usage": True}}
        for index in count():
            text = prompts.text(self.prompt_tokens, f"{kind} {self.seed} {index}")
            messages = [{"role": "user", "content": text}]
            yield Call(f"{endpoint.prefix}/chat/completions", {"messages": messages, **fields})


@dataclass(frozen=True, slots=True)
class Statistics:
    """Of one quantity over all requests."""

    mean: float
    p50: float
    p95: float
    p99: float

    @staticmethod
    def of(values: Iterable[float]) -> Statistics | None:
        """None where there are no values."""
        numbers = list(values)
        if not numbers:
            return None
        return Statistics(sum(numbers) / len(numbers), *(percentile(numbers, p) for p in PERCENTILES))


@dataclass(frozen=True, slots=True)
class Report:
    """The figures of a load. Times are in seconds; requests that failed count only as failed.

    Attributes:
        load: what was sent.
        url: the API.
        completed: requests that were answered in full.
        errors: what went wrong, with how often.
        seconds: from the first request sent to the last answer's end.
        prompt_tokens: of all requests, as the server counts.
        completion_tokens: likewise.
        time_to_first_token: from sending to the first text; None where nothing was streamed.
        inter_token_latency: a request's mean time between tokens, (last text - first) / (tokens - 1).
        gap: between two events with text, which may hold several tokens.
        latency: from sending to the answer's end.
    """

    load: Load
    url: str
    completed: int
    errors: Mapping[str, int]
    seconds: float
    prompt_tokens: int
    completion_tokens: int
    time_to_first_token: Statistics | None
    inter_token_latency: Statistics | None
    gap: Statistics | None
    latency: Statistics | None

    @staticmethod
    def of(load: Load, endpoint: Endpoint, result: LoadResult) -> Report:
        """The figures of `result`."""
        good = LoadResult(tuple(r for r in result.records if r.error is None), result.client_cpu_seconds)
        per_token = (record.seconds_per_token for record in good.records)
        return Report(
            load=load,
            url=endpoint.url,
            completed=len(good.records),
            errors={error: result.errors.count(error) for error in dict.fromkeys(result.errors)},
            seconds=result.wall_seconds,
            prompt_tokens=good.prompt_tokens,
            completion_tokens=good.completion_tokens,
            time_to_first_token=Statistics.of(good.times_to_first_token),
            inter_token_latency=Statistics.of(seconds for seconds in per_token if seconds is not None),
            gap=Statistics.of(good.inter_token_latencies),
            latency=Statistics.of(record.duration for record in good.records),
        )

    @property
    def failed(self) -> int:
        """Requests without a full answer."""
        return sum(self.errors.values())

    @property
    def requests_per_second(self) -> float:
        """Answered requests over the wall time."""
        return self.completed / self.seconds

    @property
    def output_tokens_per_second(self) -> float:
        """Generated tokens over the wall time."""
        return self.completion_tokens / self.seconds

    @property
    def total_tokens_per_second(self) -> float:
        """Prompt and generated tokens over the wall time."""
        return (self.prompt_tokens + self.completion_tokens) / self.seconds

    def save(self, path: Path) -> None:
        """Write everything as JSON.

        Raises:
            OSError: the file can't be written.
        """
        load = asdict(self.load) | ({} if math.isfinite(self.load.seconds) else {"seconds": None})
        figures = {
            "requests_per_second": self.requests_per_second,
            "output_tokens_per_second": self.output_tokens_per_second,
            "total_tokens_per_second": self.total_tokens_per_second,
        }
        path.write_bytes(
            orjson.dumps(asdict(self) | {"load": load, **figures}, option=orjson.OPT_INDENT_2) + b"\n"
        )


async def run(
    load: Load, endpoint: Endpoint, warm_up: int, on_end: Callable[[Stream], None]
) -> tuple[Report, LoadResult]:
    """Send the load and work out its figures.

    Args:
        load: what to send.
        endpoint: where.
        warm_up: requests sent before, with other prompts; they count in nothing.
        on_end: called after each request of the load.

    Raises:
        ClientError: a warm-up request failed, or no request was sent.
    """
    if warm_up:
        async with LoadGenerator(endpoint.origin, endpoint.headers) as generator:
            calls = islice(load.calls(endpoint, "warm-up"), warm_up)
            result = await generator.closed_loop(calls, load.concurrency)
        if result.errors:
            raise ClientError(f"the warm-up failed: {result.errors[0]}")
    async with LoadGenerator(endpoint.origin, endpoint.headers, on_end) as generator:
        calls = islice(load.calls(endpoint), load.requests)
        if load.request_rate is None:
            result = await generator.closed_loop(calls, load.concurrency, load.seconds)
        else:
            result = await generator.open_loop(calls, load.request_rate, load.seed, load.seconds)
    if not result.records:
        raise ClientError("no request was sent: give more time")
    return Report.of(load, endpoint, result), result
