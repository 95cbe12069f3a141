"""What a benchmark run records, and the arithmetic on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from pydantic import TypeAdapter

from predictor.client.records import RequestRecord

OURS = "kserve-llamacpp"
LLAMA_SERVER = "llama-server"
ORIGINAL_CONTAINER = "original container"


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
class Trial:
    """llama-server with some flags, tried before a scenario.

    Attributes:
        flags: as on its command line.
        value: the figure that decides; None where it couldn't be measured.
        taken: whether the scenario was measured with them.
    """

    flags: str
    value: float | None
    taken: bool


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
        trials: by scenario, llama-server's flags that were tried for it.
    """

    date: str
    command: str
    machine: Mapping[str, str]
    versions: Mapping[str, str]
    server_commands: Mapping[str, Mapping[str, str]]
    measurements: Sequence[Measurement] = field(default_factory=tuple)
    trials: Mapping[str, Sequence[Trial]] = field(default_factory=dict)

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
