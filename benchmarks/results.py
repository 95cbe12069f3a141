"""What a benchmark run records, and the arithmetic on it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median

import numpy as np
from pydantic import TypeAdapter

OURS = "kserve-llamacpp"
LLAMA_SERVER = "llama-server"
ORIGINAL_CONTAINER = "original container"


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


@dataclass(frozen=True, slots=True)
class Measurement:
    """One server at one point of a scenario in one round.

    Attributes:
        scenario: the scenario's name.
        point: what was varied, for instance "8 clients".
        server: the server's name.
        round: counted from 0.
        metrics: key of a `Metric` to its value.
        seconds: wall time of the load.
        prompt_tokens: of all requests together, to see that the servers did the same work.
        completion_tokens: of all requests together, for the same reason.
        server_cpu_seconds: CPU time of the server's processes during the load.
        server_memory_bytes: resident memory of the server's processes after the load.
        idle_cpu_seconds: CPU time of the other servers, which were up and idle.
        client_cpu_seconds: CPU time of the load generator.
        errors: what failed.
        records: the requests behind the metrics.
    """

    scenario: str
    point: str
    server: str
    round: int
    metrics: Mapping[str, float]
    seconds: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    server_cpu_seconds: float = 0.0
    server_memory_bytes: int = 0
    idle_cpu_seconds: float = 0.0
    client_cpu_seconds: float = 0.0
    errors: tuple[str, ...] = ()
    records: tuple[RequestRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class Run:
    """A whole benchmark run.

    Attributes:
        date: when it started.
        command: the benchmark's command line.
        machine: what `describe_machine` found.
        versions: what `describe_versions` found.
        server_commands: by scenario and server.
        measurements: in the order they were made.
    """

    date: str
    command: str
    machine: Mapping[str, str]
    versions: Mapping[str, str]
    server_commands: Mapping[str, Mapping[str, str]]
    measurements: Sequence[Measurement] = field(default_factory=tuple)

    def of(self, scenario: str, point: str, server: str) -> list[Measurement]:
        """All rounds of one server at one point."""
        return [m for m in self.measurements if (m.scenario, m.point, m.server) == (scenario, point, server)]

    def median(self, scenario: str, point: str, server: str, metric: str) -> float | None:
        """The metric's median over the rounds; None where it was not measured."""
        values = [m.metrics[metric] for m in self.of(scenario, point, server) if metric in m.metrics]
        return median(values) if values else None

    def ratio(self, scenario: str, point: str, metric: str) -> float | None:
        """Our median over llama-server's; None where one is missing or llama-server's is 0."""
        ours = self.median(scenario, point, OURS, metric)
        theirs = self.median(scenario, point, LLAMA_SERVER, metric)
        return None if ours is None or not theirs else ours / theirs

    def points(self, scenario: str) -> list[str]:
        """The scenario's points in the order they were measured."""
        return list(dict.fromkeys(m.point for m in self.measurements if m.scenario == scenario))

    def servers(self, scenario: str) -> list[str]:
        """The servers measured in the scenario, ours first."""
        found = {m.server for m in self.measurements if m.scenario == scenario}
        return sorted(found, key=lambda name: (name != OURS, name))

    def save(self, path: Path) -> None:
        """Write everything as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_RUN.dump_json(self))

    @staticmethod
    def load(path: Path) -> Run:
        """Read what `save` wrote.

        Raises:
            pydantic.ValidationError: the file holds something else.
        """
        return _RUN.validate_json(path.read_bytes())


_RUN = TypeAdapter(Run)


def percentile(values: Iterable[float], percent: float) -> float:
    """The value below which `percent` of the values lie, with linear interpolation between neighbours.

    Raises:
        ValueError: there are no values.
    """
    array = np.fromiter(values, dtype=float)
    if not array.size:
        raise ValueError("no values: nothing was measured")
    return float(np.percentile(array, percent))
