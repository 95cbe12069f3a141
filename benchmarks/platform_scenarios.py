"""The loads that both platforms get: closed loop, open loop, and shared beginnings over two replicas."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import Metric, Outcome, percentiles
from benchmarks.platform_servers import BARE, bare_engine, proportional_memory
from benchmarks.results import Measurement
from benchmarks.scenarios import ServingScenario
from benchmarks.servers import RunningServer, Server, Setup
from predictor.client import prompts
from predictor.client.load import LoadGenerator, completion
from predictor.client.records import LoadResult

_SETUP = Setup(sequences=8, context_tokens=8192)
_PROMPT_TOKENS, _NEW_TOKENS = 58, 48

_LATENCIES = (
    *(Metric(f"first_token_p{p}", f"time to first token, p{p}, s", {}) for p in (50, 95)),
    *(Metric(f"inter_token_p{p}", f"inter-token latency, p{p}, s", {}) for p in (50, 95, 99)),
)
_MEMORY = (
    Metric("memory_mib", "memory of all processes, MiB", {}),
    Metric("largest_mib", "memory of the process with the model, MiB", {}),
)

_CLIENTS = {"1 client": 1, "8 clients": 8}
_REQUESTS = {1: 20, 8: 32}


def _prompts(point: str, round_: int) -> list[str]:
    count = _REQUESTS[_CLIENTS[point]]
    return [prompts.text(_PROMPT_TOKENS, f"platforms {point} {round_} {i}") for i in range(count)]


async def _closed(server: RunningServer, generator: LoadGenerator, point: str, round_: int) -> Outcome:
    calls = [completion(server.model_name, text, _NEW_TOKENS) for text in _prompts(point, round_)]
    result = await generator.closed_loop(calls, _CLIENTS[point])
    return _outcome(result, server)


CLOSED = ServingScenario(
    name="platforms-closed",
    title="Closed loop",
    explanation="Each client sends its next prompt when its last answer has ended: about "
    f"{_PROMPT_TOKENS} prompt tokens, no two alike, {_NEW_TOKENS} new, streamed.",
    metrics=(Metric("tokens_per_second", "output tokens/s", {}), *_LATENCIES, *_MEMORY),
    setup=_SETUP,
    groups=[list(_CLIENTS)],
    work=_closed,
)


@dataclass(frozen=True, slots=True)
class WithBareEngine:
    """A closed loop that the engine alone gets too, in the same run.

    Attributes:
        scenario: what the servers get.
        model: for the engine.
        threads: for the engine.
    """

    scenario: ServingScenario
    model: Path
    threads: int

    async def measure(self, servers: Sequence[Server], rounds: int) -> AsyncIterator[Measurement]:
        """See `Scenario`; the engine's turn comes before the servers are started, and again after them."""
        yield await self._bare("8 clients", 0)
        async for measurement in self.scenario.measure(servers, rounds):
            yield measurement
        for point in _CLIENTS:
            yield await self._bare(point, 1)

    async def _bare(self, point: str, round_: int) -> Measurement:
        setup, clients = self.scenario.setup, _CLIENTS[point]
        result = await asyncio.to_thread(
            bare_engine, self.model, self.threads, setup, _prompts(point, round_), _NEW_TOKENS, clients
        )
        metrics = _outcome(result).metrics
        return Measurement(self.scenario.name, point, BARE, round_, metrics, result.wall_seconds)


_ARRIVALS, _RATE = 40, 1.0


async def _open(server: RunningServer, generator: LoadGenerator, point: str, round_: int) -> Outcome:
    texts = [prompts.text(_PROMPT_TOKENS, f"open {round_} {i}") for i in range(_ARRIVALS)]
    calls = [completion(server.model_name, text, _NEW_TOKENS) for text in texts]
    return _outcome(await generator.open_loop(calls, _RATE, seed=round_), server)


OPEN = ServingScenario(
    name="platforms-open",
    title="Open loop",
    explanation=f"{_ARRIVALS} requests arrive as a Poisson process of {_RATE:g} a second, the same for "
    f"both, about {_PROMPT_TOKENS} prompt tokens, {_NEW_TOKENS} new, streamed.",
    metrics=(Metric("tokens_per_second", "output tokens/s", {}), *_LATENCIES),
    setup=_SETUP,
    groups=[[f"{_RATE:g} requests/s"]],
    work=_open,
)

BY_LOAD, BY_PREFIX = "routing by load", "routing by prefix"
ROUTING = {BY_LOAD: "load", BY_PREFIX: "prefix"}
"""The two servers of `PREFIX`, and the option of each."""
_PREFIXES, _PREFIX_TOKENS, _PER_PREFIX, _PREFIX_CLIENTS = 6, 400, 4, 4


async def _prefixes(server: RunningServer, generator: LoadGenerator, point: str, round_: int) -> Outcome:
    systems = [prompts.text(_PREFIX_TOKENS, f"prefix {round_} {i}") for i in range(_PREFIXES)]
    calls = [
        completion(server.model_name, f"{system} {prompts.text(20, f'{round_} {i} {j}')}", 8)
        for i, system in enumerate(systems)
        for j in range(_PER_PREFIX)
    ]
    random.Random(round_).shuffle(calls)
    result = await generator.closed_loop(calls, _PREFIX_CLIENTS)
    metrics = dict(_outcome(result).metrics)
    asked = sum(record.prompt_tokens for record in result.records)
    metrics["cached_share"] = sum(record.cached_tokens for record in result.records) / asked
    metrics["total_seconds"] = result.wall_seconds
    return Outcome(metrics, result.records, result.client_cpu_seconds, result.errors)


PREFIX = ServingScenario(
    name="platforms-prefix",
    title="Shared beginnings over two replicas",
    explanation=f"Ray Serve, two replicas of one thread. {_PREFIXES} beginnings of about {_PREFIX_TOKENS} "
    f"tokens, {_PER_PREFIX} prompts with each, in random order from {_PREFIX_CLIENTS} clients, 8 new tokens.",
    metrics=(
        Metric("cached_share", "part of the prompt tokens that was cached", {}),
        Metric("total_seconds", "time until all are answered, s", {}),
        *_LATENCIES[:2],
    ),
    setup=Setup(sequences=8, context_tokens=8192),
    groups=[["2 replicas"]],
    work=_prefixes,
)


def _outcome(result: LoadResult, server: RunningServer | None = None) -> Outcome:
    metrics = {"tokens_per_second": result.output_tokens_per_second}
    for name, values in (
        ("first_token", result.times_to_first_token),
        ("inter_token", result.inter_token_latencies),
    ):
        if values:
            metrics |= percentiles(name, values, (50, 95, 99))
    if server is not None:
        total, largest = proportional_memory(server.process)
        metrics |= {"memory_mib": total / 2**20, "largest_mib": largest / 2**20}
    return Outcome(metrics, result.records, result.client_cpu_seconds, result.errors)
