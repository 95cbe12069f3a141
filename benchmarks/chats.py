"""Chats of many turns, each of which sends its whole history again: the commonest load there is."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence

from benchmarks.measure import Goal, Metric, Outcome, percentiles
from benchmarks.scenarios import ServingScenario, Tuning
from benchmarks.servers import RunningServer, Setup
from predictor.client import prompts
from predictor.client.load import LoadGenerator, Stream, conversation
from predictor.client.records import LoadResult

CHATS, TURNS = 6, 12
_SYSTEM_TOKENS, _USER_TOKENS = 60, 40
_IN_STEP_TOKENS, _TALK_TOKENS = 24, (8, 64)
_THINKING_SECONDS = 0.5
_IN_STEP, _TALK = "in step", "talk"


async def _chats(server: RunningServer, generator: LoadGenerator, point: str, round_: int) -> Outcome:
    cpu = time.process_time()
    chats = [_chat(server, generator, point, f"{point} {round_} {number}") for number in range(CHATS)]
    streams = [stream for chat in await asyncio.gather(*chats) for stream in chat]
    result = LoadResult(tuple(stream.record() for stream in streams), time.process_time() - cpu)
    return Outcome(_figures(result), result.records, result.client_cpu_seconds, result.errors)


async def _chat(server: RunningServer, generator: LoadGenerator, point: str, seed: str) -> Sequence[Stream]:
    """One chat; every answer becomes a part of the next request."""
    chance = random.Random(seed)
    messages = [{"role": "system", "content": prompts.text(_SYSTEM_TOKENS, "system")}]
    streams = []
    for turn in range(TURNS):
        messages.append({"role": "user", "content": prompts.text(_USER_TOKENS, f"{seed} {turn}")})
        tokens = _IN_STEP_TOKENS
        if point == _TALK:
            await asyncio.sleep(_THINKING_SECONDS * chance.uniform(0.5, 1.5))
            tokens = chance.randint(*_TALK_TOKENS)
        stream = await generator.stream(conversation(server.model_name, messages, tokens))
        streams.append(stream)
        messages.append({"role": "assistant", "content": stream.text()})
    return streams


def _figures(result: LoadResult) -> dict[str, float]:
    first, between = result.times_to_first_token, result.inter_token_latencies
    figures = {"tokens_per_second": result.output_tokens_per_second}
    figures |= percentiles("first_token", first, (50, 95))
    figures |= percentiles("inter_token", between, (50, 95, 99))
    figures["cached_tokens"] = sum(record.cached_tokens for record in result.records)
    return figures


CHAT = ServingScenario(
    name="chats",
    title="Chats",
    explanation=f"{CHATS} chats of {TURNS} turns each, the history sent again every turn, about "
    f"{_USER_TOKENS} new tokens in each message. In step: no pause, answers of {_IN_STEP_TOKENS} tokens, so "
    f"that all chats march together and prompts meet in one batch. Talk: people think about "
    f"{_THINKING_SECONDS:g} seconds between turns, and answers have {_TALK_TOKENS[0]} to {_TALK_TOKENS[1]} "
    "tokens. Our server runs with its default options.",
    metrics=(
        Metric(
            "tokens_per_second", "output tokens/s", dict.fromkeys((_IN_STEP, _TALK), Goal(1, at_least=True))
        ),
        Metric(
            "first_token_p50",
            "time to first token, p50, s",
            {_IN_STEP: Goal(1, at_least=False), _TALK: Goal(0.9, at_least=False)},
        ),
        Metric("first_token_p95", "time to first token, p95, s", {}),
        Metric("inter_token_p50", "inter-token latency, p50, s", {}),
        Metric("inter_token_p95", "inter-token latency, p95, s", {_TALK: Goal(1, at_least=False)}),
        Metric("inter_token_p99", "inter-token latency, p99, s", {_TALK: Goal(1, at_least=False)}),
        Metric("cached_tokens", "prompt tokens reused", {}),
    ),
    setup=Setup(sequences=16, context_tokens=16 * 4096, our_defaults=True),
    groups=[[_IN_STEP], [_TALK]],
    work=_chats,
    same_work=False,
    tuning=Tuning(
        ("", "-ub 128", "-ub 1024", "-fa off", "-kvu"), _IN_STEP, "tokens_per_second", more_is_better=True
    ),
)
