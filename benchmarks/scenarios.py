"""The questions asked of servers that stay up: throughput, shared prompts, fairness."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass

from benchmarks.measure import Goal, Metric, Outcome, all_running, metered, percentiles, turns
from benchmarks.results import Measurement
from benchmarks.servers import RunningServer, Server, Setup
from predictor.client import prompts
from predictor.client.load import Call, LoadGenerator, Stream, chat, completion
from predictor.client.records import LoadResult

Work = Callable[[RunningServer, LoadGenerator, str, int], Awaitable[Outcome]]


@dataclass(frozen=True, slots=True)
class Tuning:
    """How llama-server's flags are chosen for a scenario.

    Attributes:
        variants: flags to try, as on its command line.
        point: where they are tried.
        metric: key of the figure that decides.
        more_is_better: whether the largest wins, or the smallest.
    """

    variants: Sequence[str]
    point: str
    metric: str
    more_is_better: bool = False


@dataclass(frozen=True, slots=True)
class ServingScenario:
    """A scenario on servers that are all up and warm; see `Scenario` for the attributes.

    Attributes:
        groups: points; the points of one group are measured in a row on the same server.
        work: measures one point of one round.
        same_work: see `Scenario`.
        tuning: of llama-server; None where it isn't compared with.
    """

    name: str
    title: str
    explanation: str
    metrics: Sequence[Metric]
    setup: Setup
    groups: Sequence[Sequence[str]]
    work: Work
    same_work: bool = True
    tuning: Tuning | None = None

    def measurement_count(self, servers: Sequence[Server], rounds: int) -> int:
        return sum(len(group) for group in self.groups) * len(servers) * rounds

    async def measure(self, servers: Sequence[Server], rounds: int) -> AsyncIterator[Measurement]:
        async with all_running(servers, self.setup) as instances:
            for group in self.groups:
                for round_, index in turns(rounds, len(instances)):
                    instance = instances[index]
                    resting = [other for other in instances if other is not instance]
                    async with LoadGenerator(instance.base_url) as generator:
                        for point in group:
                            work = self.work(instance, generator, point, round_)
                            yield await metered(self.name, point, round_, instance, resting, work)


_CLIENTS = {"1 client": 1, "4 clients": 4, "8 clients": 8, "16 clients": 16}
_REQUESTS = {1: 20, 4: 24, 8: 32, 16: 48}
_DISTINCT_PROMPT_TOKENS, _DISTINCT_NEW_TOKENS = 58, 64


async def _distinct(server: RunningServer, generator: LoadGenerator, point: str, round_: int) -> Outcome:
    clients = _CLIENTS[point]
    texts = (
        prompts.text(_DISTINCT_PROMPT_TOKENS, f"distinct {point} {round_} {i}")
        for i in range(_REQUESTS[clients])
    )
    calls = [completion(server.model_name, text, _DISTINCT_NEW_TOKENS) for text in texts]
    result = await generator.closed_loop(calls, clients)
    return _outcome(result, {"tokens_per_second": result.output_tokens_per_second})


DISTINCT = ServingScenario(
    name="distinct",
    title="Distinct prompts",
    explanation="Each client sends its next prompt when its last answer has ended. About "
    f"{_DISTINCT_PROMPT_TOKENS} prompt tokens, no two prompts alike, {_DISTINCT_NEW_TOKENS} new, streamed.",
    metrics=(
        Metric("tokens_per_second", "output tokens/s", dict.fromkeys(_CLIENTS, Goal(1.0, at_least=True))),
        Metric("first_token_p50", "time to first token, p50, s", {}),
        Metric(
            "first_token_p95",
            "time to first token, p95, s",
            dict.fromkeys(_CLIENTS, Goal(1.0, at_least=False)),
        ),
        Metric("inter_token_p50", "inter-token latency, p50, s", {}),
        Metric("inter_token_p99", "inter-token latency, p99, s", {}),
    ),
    setup=Setup(sequences=16, context_tokens=32768),
    groups=[[point] for point in _CLIENTS],
    work=_distinct,
    tuning=Tuning(
        ("", "-b 512", "-ub 128", "-ub 1024", "-fa off", "-kvu"),
        "8 clients",
        "tokens_per_second",
        more_is_better=True,
    ),
)

_SHARED_CLIENTS, _SHARED_PROMPT_TOKENS, _SHARED_NEW_TOKENS = 16, 1000, 16
_COLD, _WARM = "cold", "warm"


async def _shared(server: RunningServer, generator: LoadGenerator, point: str, round_: int) -> Outcome:
    # A system prompt of its own in every round, so that no round finds the last one's in a cache.
    system = prompts.text(_SHARED_PROMPT_TOKENS, f"shared {round_}")
    calls = [
        chat(server.model_name, system, prompts.text(20, f"{point} {round_} {i}"), _SHARED_NEW_TOKENS)
        for i in range(_SHARED_CLIENTS)
    ]
    result = await generator.closed_loop(calls, _SHARED_CLIENTS)
    return _outcome(result, {"total_seconds": result.wall_seconds})


SHARED = ServingScenario(
    name="shared",
    title="One shared system prompt",
    explanation=f"{_SHARED_CLIENTS} clients arrive at once, each with its own question under one system "
    f"prompt of about {_SHARED_PROMPT_TOKENS} tokens, {_SHARED_NEW_TOKENS} new tokens each. Cold: the server "
    "has never seen the system prompt. Warm: a second wave with other questions under the same one.",
    metrics=(
        Metric(
            "total_seconds",
            "time until all are answered, s",
            {_COLD: Goal(0.1, at_least=False), _WARM: Goal(0.7, at_least=False)},
        ),
        Metric("first_token_p90", "time to first token, p90, s", {}),
        Metric("cached_tokens", "prompt tokens reused", {}),
    ),
    # In one pool of cells the sequences share the system prompt's, and attention takes llama.cpp's fast path.
    setup=Setup(sequences=_SHARED_CLIENTS, context_tokens=32768, own_cells=False),
    groups=[[_COLD, _WARM]],
    work=_shared,
    tuning=Tuning(
        ("", "-b 512", "-ub 1024", "-kvu", "-kvu -ub 1024", "-kvu --cache-reuse 64"), _COLD, "total_seconds"
    ),
)

_LONG_STREAMS, _LONG_PROMPT_TOKENS, _LONG_MOST_TOKENS, _LONG_HEAD_START = 4, 4000, 2000, 16
_LONG_POINT = f"{_LONG_STREAMS} streams"


async def _long(server: RunningServer, generator: LoadGenerator, point: str, round_: int) -> Outcome:
    cpu = time.process_time()
    streams = [
        Stream(completion(server.model_name, prompts.text(58, f"long {round_} {i}"), _LONG_MOST_TOKENS))
        for i in range(_LONG_STREAMS)
    ]
    tasks = [asyncio.create_task(generator.stream(stream.call, stream)) for stream in streams]
    try:
        while any(len(stream.lines) < _LONG_HEAD_START and not stream.ended for stream in streams):
            await asyncio.sleep(0.01)
        newcomer = await generator.stream(_long_call(server, round_))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    result = LoadResult(tuple(stream.record() for stream in (newcomer, *streams)), time.process_time() - cpu)
    return _long_outcome(result, newcomer)


def _long_call(server: RunningServer, round_: int) -> Call:
    return completion(server.model_name, prompts.text(_LONG_PROMPT_TOKENS, f"newcomer {round_}"), 1)


def _long_outcome(result: LoadResult, newcomer: Stream) -> Outcome:
    window = newcomer.started, newcomer.ended
    gaps = [gap for record in result.records[1:] for gap in record.latencies_during(*window)]
    errors = result.errors
    if any(stream.started + stream.duration < window[1] for stream in result.records[1:]):
        errors = (*errors, "a stream ended before the long prompt was processed")
    metrics: dict[str, float] = {}
    if gaps:
        metrics = percentiles("stall", gaps, (50, 99)) | {"stall_max": max(gaps)}
    if (first := result.records[0].time_to_first_token) is not None:
        metrics["newcomer_first_token"] = first
    return Outcome(metrics, result.records, result.client_cpu_seconds, errors)


LONG = ServingScenario(
    name="long",
    title="A long prompt beside running streams",
    explanation=f"While {_LONG_STREAMS} streams run, a prompt of about {_LONG_PROMPT_TOKENS} tokens arrives. "
    "The inter-token latencies are the streams', from its arrival to its first token. A server can always "
    "make the newcomer faster at the streams' cost, so its time to first token stands beside them.",
    metrics=(
        Metric("stall_p50", "the streams' inter-token latency, p50, s", {}),
        Metric(
            "stall_p99",
            "the streams' inter-token latency, p99, s",
            {_LONG_POINT: Goal(0.5, at_least=False)},
        ),
        Metric("stall_max", "the streams' inter-token latency, longest, s", {}),
        Metric("newcomer_first_token", "the long prompt's time to first token, s", {}),
    ),
    setup=Setup(
        sequences=_LONG_STREAMS + 1,
        context_tokens=(_LONG_STREAMS + 1) * 5120,
        # With 400 the streams' p99 was 0.40 to 0.42 s and the long prompt took 17 to 21 s; with 300 they were
        # 0.30 s and 23 to 25 s.
        our_flags=("--max-inter-token-latency-ms", "300"),
    ),
    groups=[[_LONG_POINT]],
    work=_long,
    # llama-server reads a whole batch between two tokens of its streams.
    tuning=Tuning(("", "-b 512", "-b 256", "-b 128", "-b 64", "-b 128 -kvu"), _LONG_POINT, "stall_max"),
)


def _outcome(result: LoadResult, metrics: dict[str, float]) -> Outcome:
    first = result.times_to_first_token
    between = result.inter_token_latencies
    if first and between:
        metrics |= percentiles("first_token", first, (50, 90, 95))
        metrics |= percentiles("inter_token", between, (50, 99))
    metrics["cached_tokens"] = sum(record.cached_tokens for record in result.records)
    return Outcome(metrics, result.records, result.client_cpu_seconds, result.errors)
