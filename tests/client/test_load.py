"""The load generator against a fake of an OpenAI server that speaks real HTTP with known delays."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from predictor.client.load import LoadGenerator, Stream, chat, completion
from predictor.client.records import percentile

FIRST_TOKEN_SECONDS = 0.15
BETWEEN_SECONDS = 0.05
# A busy machine delays timers; a wrong clock or a wrong event would be off by more than this.
SLACK_SECONDS = 0.1


@dataclass
class FakeServer:
    """A fake: it generates nothing. It waits FIRST_TOKEN_SECONDS, then sends a chunk each BETWEEN_SECONDS.

    Its usage counts two tokens for every chunk, as a server does that sends several at once.
    """

    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    running: int = 0
    most_running: int = 0
    left_early: int = 0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        if body["model"] == "unknown":
            return web.json_response({"error": {"message": "no such model"}}, status=404)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await self._generate(response, body)
        except (ConnectionResetError, asyncio.CancelledError):
            self.left_early += 1
            raise
        finally:
            self.running -= 1
        return response

    async def _generate(self, response: web.StreamResponse, body: dict[str, Any]) -> None:
        is_chat = "messages" in body
        if is_chat:
            await send(response, {"choices": [{"delta": {"role": "assistant", "content": ""}}]})
        await asyncio.sleep(FIRST_TOKEN_SECONDS)
        for index in range(body["max_tokens"] // 2):
            if index:
                await asyncio.sleep(BETWEEN_SECONDS)
            if body["model"] == "breaks" and index == 1:
                await send(response, {"error": {"message": "out of memory"}})
                return
            choice = {"delta": {"content": "two tokens"}} if is_chat else {"text": "two tokens"}
            await send(response, {"choices": [choice]})
        if body["model"] != "no usage":
            usage = {
                "prompt_tokens": 11,
                "completion_tokens": body["max_tokens"],
                "prompt_tokens_details": {"cached_tokens": 7},
            }
            await send(response, {"choices": [], "usage": usage})
        await response.write(b"data: [DONE]\n\n")


async def send(response: web.StreamResponse, event: dict[str, Any]) -> None:
    await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")


@pytest_asyncio.fixture
async def fake() -> AsyncIterator[FakeServer]:
    server = FakeServer()
    application = web.Application()
    application.router.add_post("/v1/completions", server.answer)
    application.router.add_post("/v1/chat/completions", server.answer)
    runner = web.AppRunner(application, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0]
    server.url = f"http://{host}:{port}"
    yield server
    await runner.cleanup()


@pytest_asyncio.fixture
async def generator(fake: FakeServer) -> AsyncIterator[LoadGenerator]:
    async with LoadGenerator(fake.url) as made:
        yield made


async def test_times_and_token_counts_are_the_servers(generator: LoadGenerator) -> None:
    record = (await generator.stream(completion("fake", "hello", 10))).record()
    assert record.error is None
    assert (record.prompt_tokens, record.completion_tokens, record.cached_tokens) == (11, 10, 7)
    assert record.time_to_first_token is not None
    assert FIRST_TOKEN_SECONDS <= record.time_to_first_token < FIRST_TOKEN_SECONDS + SLACK_SECONDS
    assert len(record.inter_token_latencies) == 4
    middle = percentile(record.inter_token_latencies, 50)
    assert 0.8 * BETWEEN_SECONDS <= middle < BETWEEN_SECONDS + SLACK_SECONDS
    assert record.duration >= FIRST_TOKEN_SECONDS + 4 * BETWEEN_SECONDS


async def test_a_chunk_without_text_is_no_token(generator: LoadGenerator) -> None:
    record = (await generator.stream(chat("fake", "be brief", "hello", 2))).record()
    assert len(record.token_times) == 1
    assert record.time_to_first_token is not None
    assert record.time_to_first_token >= FIRST_TOKEN_SECONDS


async def test_both_servers_are_asked_for_the_same_number_of_tokens(
    fake: FakeServer, generator: LoadGenerator
) -> None:
    await generator.stream(completion("fake", "hello", 2))
    body = fake.bodies[0]
    assert (body["max_tokens"], body["ignore_eos"], body["temperature"]) == (2, True, 0)
    assert body["stream_options"] == {"include_usage": True}


async def test_closed_loop_keeps_its_clients_busy_and_no_more(
    fake: FakeServer, generator: LoadGenerator
) -> None:
    calls = [completion("fake", f"prompt {i}", 2) for i in range(7)]
    result = await generator.closed_loop(calls, clients=3)
    assert fake.most_running == 3
    assert sorted(body["prompt"] for body in fake.bodies) == [f"prompt {i}" for i in range(7)]
    assert result.completion_tokens == 14
    # Seven calls on three clients are three waves.
    assert 3 * FIRST_TOKEN_SECONDS <= result.wall_seconds < 3 * (FIRST_TOKEN_SECONDS + SLACK_SECONDS)
    assert 0 < result.client_cpu_seconds < result.wall_seconds


async def test_open_loop_does_not_wait_for_answers(fake: FakeServer, generator: LoadGenerator) -> None:
    calls = [completion("fake", f"prompt {i}", 2) for i in range(20)]
    result = await generator.open_loop(calls, requests_per_second=100, seed=1)
    starts = [record.started for record in result.records]
    assert starts == sorted(starts)
    assert 0.05 < starts[-1] - starts[0] < 0.6  # 0.19 s expected for 19 gaps
    assert fake.most_running > 3
    assert result.errors == ()


async def test_a_refused_request_is_an_error_with_the_servers_words(generator: LoadGenerator) -> None:
    result = await generator.closed_loop([completion("unknown", "hello", 2)], clients=1)
    assert result.completion_tokens == 0
    assert "HTTP 404" in result.errors[0]
    assert "no such model" in result.errors[0]


async def test_an_error_in_the_middle_of_a_stream_counts(generator: LoadGenerator) -> None:
    record = (await generator.stream(completion("breaks", "hello", 8))).record()
    assert record.error is not None
    assert "out of memory" in record.error


async def test_a_stream_without_usage_is_an_error(generator: LoadGenerator) -> None:
    record = (await generator.stream(completion("no usage", "hello", 2))).record()
    assert record.error == "the stream ended without usage"


async def test_a_server_that_is_not_there_is_an_error() -> None:
    async with LoadGenerator("http://127.0.0.1:9") as nowhere:
        record = (await nowhere.stream(completion("fake", "hello", 2))).record()
    assert record.error is not None
    assert "ClientConnectorError" in record.error


async def test_a_cancelled_stream_leaves_the_server_and_is_no_error(
    fake: FakeServer, generator: LoadGenerator
) -> None:
    stream = Stream(completion("fake", "hello", 1000))
    task = asyncio.create_task(generator.stream(stream.call, stream))
    while len(stream.lines) < 2:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    record = stream.record()
    assert record.error is None
    assert len(record.token_times) >= 2
    deadline = time.perf_counter() + 5
    while not fake.left_early and time.perf_counter() < deadline:
        await asyncio.sleep(0.01)
    assert fake.left_early == 1
