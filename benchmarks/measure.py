"""How servers are compared: in turns, with both up, the resting one's CPU time watched."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from benchmarks.results import Measurement
from benchmarks.servers import RunningServer, Server, Setup, running
from predictor.client import prompts
from predictor.client.load import LoadGenerator, completion
from predictor.client.records import RequestRecord, percentile

T = TypeVar("T")

_SETTLE_SECONDS = 0.5
_LONGEST_REST_SECONDS = 20.0
_RESTING_CPU = 0.2
_WARM_UP_NEW_TOKENS = 8


@dataclass(frozen=True, slots=True)
class Goal:
    """What our median over llama-server's should be."""

    ratio: float
    at_least: bool

    def is_met(self, ratio: float) -> bool:
        """Whether the measured ratio reaches the goal."""
        return ratio >= self.ratio if self.at_least else ratio <= self.ratio

    def __str__(self) -> str:
        return f"at {'least' if self.at_least else 'most'} {self.ratio:g}"


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure of a scenario.

    Attributes:
        key: in `Measurement.metrics`.
        label: with its unit, for people.
        goals: by point; a point without one has no goal.
    """

    key: str
    label: str
    goals: Mapping[str, Goal]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one measurement gave."""

    metrics: Mapping[str, float]
    records: tuple[RequestRecord, ...] = ()
    client_cpu_seconds: float = 0.0
    errors: tuple[str, ...] = ()


def percentiles(name: str, values: Sequence[float], percents: Sequence[int]) -> dict[str, float]:
    """The metrics `NAME_p50` and so on: those that at least one of the values lies beyond.

    A 95th percentile takes 20 values, a 99th 100: of fewer it would be the largest one under another name.
    """
    return {
        f"{name}_p{percent}": percentile(values, percent)
        for percent in percents
        if len(values) * (100 - percent) >= 100
    }


class Scenario(Protocol):
    """A question to the servers."""

    @property
    def name(self) -> str:
        """As given on the command line."""
        ...

    @property
    def title(self) -> str:
        """A heading."""
        ...

    @property
    def explanation(self) -> str:
        """What is sent and what is measured."""
        ...

    @property
    def metrics(self) -> Sequence[Metric]:
        """In the order of the table."""
        ...

    @property
    def setup(self) -> Setup:
        """What the servers are started with."""
        ...

    @property
    def same_work(self) -> bool:
        """Whether all servers must process the same number of tokens."""
        ...

    def measurement_count(self, servers: Sequence[Server], rounds: int) -> int:
        """How many measurements `measure` yields."""
        ...

    def measure(self, servers: Sequence[Server], rounds: int) -> AsyncIterator[Measurement]:
        """Run it.

        Raises:
            ServerError: a server did not start.
        """
        ...


def run_to_end(work: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run` that also stops the servers when this process gets a SIGTERM, as on Ctrl-C."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    return asyncio.run(work)


def turns(rounds: int, servers: int) -> Iterator[tuple[int, int]]:
    """(round, server) in the order A B, B A, A B, ...: a machine that slows down steadily favours neither."""
    for round_ in range(rounds):
        order = range(servers) if round_ % 2 == 0 else reversed(range(servers))
        for server in order:
            yield round_, server


@asynccontextmanager
async def all_running(servers: Sequence[Server], setup: Setup) -> AsyncIterator[list[RunningServer]]:
    """All servers up and warm. A resting llama-server takes no CPU time, which `metered` watches."""
    async with AsyncExitStack() as stack:
        instances = [await stack.enter_async_context(running(server, setup)) for server in servers]
        for instance in instances:
            await _warm_up(instance, setup.sequences)
        await _come_to_rest(instances)
        yield instances


async def _come_to_rest(instances: Sequence[RunningServer]) -> None:
    """Wait until the servers are idle: Ray's processes work on for seconds after the first answers."""
    deadline = time.perf_counter() + _LONGEST_REST_SECONDS
    while time.perf_counter() < deadline:
        before, began = sum(one.cpu_seconds() for one in instances), time.perf_counter()
        await asyncio.sleep(1)
        used = sum(one.cpu_seconds() for one in instances) - before
        if used < _RESTING_CPU * (time.perf_counter() - began):
            return


async def _warm_up(instance: RunningServer, clients: int) -> None:
    calls = [
        completion(instance.model_name, prompts.text(32, f"warm-up {i}"), _WARM_UP_NEW_TOKENS)
        for i in range(clients)
    ]
    async with LoadGenerator(instance.base_url) as generator:
        await generator.closed_loop(calls, clients)


async def metered(
    scenario: str,
    point: str,
    round_: int,
    instance: RunningServer,
    resting: Sequence[RunningServer],
    work: Awaitable[Outcome],
) -> Measurement:
    """Await the work and add what the server, the resting servers and the load generator used meanwhile."""
    await asyncio.sleep(_SETTLE_SECONDS)
    busy, idle = instance.cpu_seconds(), sum(other.cpu_seconds() for other in resting)
    started = time.perf_counter()
    outcome = await work
    return Measurement(
        scenario=scenario,
        point=point,
        server=instance.name,
        round=round_,
        metrics=outcome.metrics,
        seconds=time.perf_counter() - started,
        prompt_tokens=sum(record.prompt_tokens for record in outcome.records),
        completion_tokens=sum(record.completion_tokens for record in outcome.records),
        server_cpu_seconds=instance.cpu_seconds() - busy,
        server_memory_bytes=instance.memory_bytes(),
        idle_cpu_seconds=sum(other.cpu_seconds() for other in resting) - idle,
        client_cpu_seconds=outcome.client_cpu_seconds,
        errors=outcome.errors,
        records=outcome.records,
    )
