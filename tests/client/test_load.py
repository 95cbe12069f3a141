"""The load generator against a server with known delays."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from itertools import count

import pytest
import pytest_asyncio
from fake_openai import BETWEEN_SECONDS, FIRST_TOKEN_SECONDS, FakeServer

from predictor.client.load import Call, LoadGenerator, Stream, chat, completion
from predictor.client.records import percentile

# A busy machine delays timers; a wrong clock or a wrong event would be off by more than this.
SLACK_SECONDS = 0.1


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


async def test_a_closed_loop_ends_after_its_time(fake: FakeServer, generator: LoadGenerator) -> None:
    calls = (completion("fake", f"prompt {i}", 2) for i in count())
    result = await generator.closed_loop(calls, clients=2, seconds=2.5 * FIRST_TOKEN_SECONDS)
    assert 2 <= len(result.records) <= 6  # 6 on an idle machine
    assert result.errors == ()
    assert fake.running == 0


async def test_an_open_loop_ends_after_its_time(fake: FakeServer, generator: LoadGenerator) -> None:
    calls = (completion("fake", f"prompt {i}", 2) for i in count())
    result = await generator.open_loop(calls, requests_per_second=50, seed=1, seconds=0.5)
    again = await generator.open_loop(calls, requests_per_second=50, seed=1, seconds=0.5)
    assert 10 < len(result.records) == len(again.records) < 50
    assert result.errors == ()
    assert fake.running == 0


async def test_an_answer_in_one_piece_has_usage_and_no_first_token(generator: LoadGenerator) -> None:
    call = completion("fake", "hello", 10)
    body = {key: value for key, value in call.body.items() if not key.startswith("stream")}
    record = (await generator.stream(Call(call.path, body))).record()
    assert record.error is None
    assert (record.completion_tokens, record.time_to_first_token) == (10, None)
    assert record.duration >= FIRST_TOKEN_SECONDS


async def test_headers_go_out_and_every_end_is_told(fake: FakeServer) -> None:
    ended: list[Stream] = []
    async with LoadGenerator(fake.url, {"x-key": "secret"}, ended.append) as generator:
        await generator.closed_loop([completion(name, "hello", 2) for name in ("fake", "unknown")], clients=1)
    assert [stream.error is None for stream in ended] == [True, False]
    assert [headers["x-key"] for headers in fake.headers] == ["secret", "secret"]


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
    assert record.error == "the answer came without usage"


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
