"""A load generator for OpenAI's completion routes.

It shares the machine's cores with the server it measures, so it must be cheap: aiohttp took 55 to 75
microseconds of CPU a chunk here, httpx 190 to 200, hand-written asyncio streams 50 to 60. While a load runs,
chunks are only stamped with their time; they are parsed after the last one.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson

from predictor.client.records import LoadResult, RequestRecord

RESPONSE_TIMEOUT_SECONDS = 900


@dataclass(frozen=True, slots=True)
class Call:
    """A request to send: the path under the server's address and the JSON body."""

    path: str
    body: Mapping[str, Any]


def completion(model: str, prompt: str, max_tokens: int) -> Call:
    """A plain prompt, continued for exactly `max_tokens` tokens."""
    return Call("/v1/completions", {"prompt": prompt, **_fixed_length(model, max_tokens)})


def chat(model: str, system: str, user: str, max_tokens: int) -> Call:
    """A conversation, answered with exactly `max_tokens` tokens."""
    return conversation(
        model, [{"role": "system", "content": system}, {"role": "user", "content": user}], max_tokens
    )


def conversation(model: str, messages: Sequence[Mapping[str, str]], max_tokens: int) -> Call:
    """A conversation of any length, answered with exactly `max_tokens` tokens."""
    body = {"messages": list(messages), **_fixed_length(model, max_tokens)}
    return Call("/v1/chat/completions", body)


def _fixed_length(model: str, max_tokens: int) -> dict[str, Any]:
    return {
        "model": model,
        "max_tokens": max_tokens,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


@dataclass(slots=True)
class Stream:
    """A request under way.

    Attributes:
        call: what was sent.
        started: when, on the clock of `time.perf_counter`.
        ended: when the response ended; 0 before.
        lines: every event line with its arrival time.
        whole: the answer of a call that wasn't to be streamed.
        error: what went wrong, None where nothing did.
        cancelled: the client left before the end, on purpose.
    """

    call: Call
    started: float = 0.0
    ended: float = 0.0
    lines: list[tuple[float, bytes]] = field(default_factory=list)
    whole: bytes = b""
    error: str | None = None
    cancelled: bool = False

    def text(self) -> str:
        """The answer so far."""
        events = (orjson.loads(line) for _, line in self.lines)
        return "".join(_text(choice) or "" for event in events for choice in event.get("choices", ()))

    def record(self) -> RequestRecord:
        """The parsed request. Without usage its tokens are unknown: failed, unless the client left early."""
        times: list[float] = []
        usage: Mapping[str, Any] = {}
        error = self.error
        for arrived, line in self.lines:
            event = orjson.loads(line)
            usage = event.get("usage") or usage
            if "error" in event:
                error = error or f"error event: {event['error']}"
            if any(_text(choice) for choice in event.get("choices", ())):
                times.append(arrived - self.started)
        if self.whole:
            usage = orjson.loads(self.whole).get("usage") or {}
        if not usage and not self.cancelled:
            error = error or "the answer came without usage"
        return RequestRecord(
            started=self.started,
            token_times=tuple(times),
            duration=self.ended - self.started,
            prompt_tokens=usage.get("prompt_tokens", 0),
            completion_tokens=usage.get("completion_tokens", 0),
            cached_tokens=(usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0,
            error=error,
        )


def _text(choice: Mapping[str, Any]) -> str | None:
    text: str | None = choice.get("text") or choice.get("delta", {}).get("content")
    return text


class LoadGenerator:
    """Sends calls to one server. Use as an async context manager.

    Args:
        base_url: the server's address, such as "http://127.0.0.1:8080".
        headers: sent with every request.
        on_end: called with each request that has ended, while others run: keep it cheap.
    """

    def __init__(
        self,
        base_url: str,
        headers: Mapping[str, str] | None = None,
        on_end: Callable[[Stream], None] | None = None,
    ) -> None:
        self._base_url = base_url
        self._headers = dict(headers or {})
        self._on_end = on_end

    async def __aenter__(self) -> LoadGenerator:
        self._session = aiohttp.ClientSession(
            self._base_url,
            headers=self._headers,
            # One connection a request: llama-server closes idle ones, and a call sent then would fail.
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            timeout=aiohttp.ClientTimeout(total=RESPONSE_TIMEOUT_SECONDS),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def stream(
        self, call: Call, stream: Stream | None = None, on_line: Callable[[], None] | None = None
    ) -> Stream:
        """Send one call and read its answer to the end; errors are recorded, not raised.

        Args:
            call: what to send.
            stream: filled in while events come, for a caller that cancels; a new one by default.
            on_line: called after each event.
        """
        stream = stream or Stream(call)
        stream.started = time.perf_counter()
        try:
            async with self._session.post(call.path, json=dict(call.body)) as response:
                if response.status != 200:
                    stream.error = f"HTTP {response.status}: {(await response.text())[:300]}"
                elif call.body.get("stream"):
                    await _read_events(response, stream, on_line)
                else:
                    stream.whole = await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            stream.error = f"{type(error).__name__}: {error}"
        except asyncio.CancelledError:
            stream.cancelled = True
            raise
        finally:
            stream.ended = time.perf_counter()
        if self._on_end:
            self._on_end(stream)
        return stream

    async def closed_loop(self, calls: Iterable[Call], clients: int, seconds: float = math.inf) -> LoadResult:
        """Each client sends its next call as soon as its last one has ended.

        Args:
            calls: sent in this order, until all are sent.
            clients: requests under way at once.
            seconds: after this, nothing more is sent; what is under way still ends.
        """
        streams: list[Stream] = []
        waiting = iter(calls)
        deadline = time.perf_counter() + seconds

        async def client() -> None:
            while time.perf_counter() < deadline and (call := next(waiting, None)) is not None:
                streams.append(Stream(call))
                await self.stream(call, streams[-1])

        return await self._measured(streams, asyncio.gather(*(client() for _ in range(clients))))

    async def open_loop(
        self, calls: Iterable[Call], requests_per_second: float, seed: int, seconds: float = math.inf
    ) -> LoadResult:
        """Calls arrive as a Poisson process, however long earlier ones take.

        Args:
            calls: sent in this order, until all are sent.
            requests_per_second: mean arrival rate.
            seed: of the arrival times, so that two servers see the same ones.
            seconds: after this, nothing more is sent; what is under way still ends.
        """
        randomness = random.Random(seed)  # noqa: S311
        streams: list[Stream] = []

        async def send() -> None:
            begin, arrival = time.perf_counter(), 0.0
            async with asyncio.TaskGroup() as under_way:
                for call in calls:
                    if arrival >= seconds:
                        break
                    await asyncio.sleep(begin + arrival - time.perf_counter())
                    streams.append(Stream(call))
                    under_way.create_task(self.stream(call, streams[-1]))
                    arrival += randomness.expovariate(requests_per_second)

        return await self._measured(streams, send())

    async def _measured(self, streams: Sequence[Stream], work: Awaitable[Any]) -> LoadResult:
        cpu = time.process_time()
        await work
        cpu = time.process_time() - cpu
        return LoadResult(tuple(stream.record() for stream in streams), cpu)


async def _read_events(
    response: aiohttp.ClientResponse, stream: Stream, on_line: Callable[[], None] | None
) -> None:
    async for line in response.content:
        if line.startswith(b"data:") and not line.startswith(b"data: [DONE]"):
            stream.lines.append((time.perf_counter(), line[5:]))
            if on_line:
                on_line()
