"""Which flags are llama-server's best in a scenario: measured here, then written into the scenario's setup.

python -m benchmarks.llama_server_flags --llama-server PATH --model PATH --scenario distinct
"""

from __future__ import annotations

import dataclasses
import shlex
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Annotated

import psutil
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.measure import Scenario, run_to_end
from benchmarks.report import line, number
from benchmarks.results import Measurement
from benchmarks.scenarios import DISTINCT, LONG, SHARED, ServingScenario
from benchmarks.servers import LlamaServer

_SCENARIOS = {scenario.name: scenario for scenario in (DISTINCT, SHARED, LONG)}
_VARIANTS = {
    DISTINCT.name: ("", "-fa on", "-fa off", "-kvu", "-b 512", "-ub 256", "-ub 1024", "-ub 128 -b 128"),
    SHARED.name: ("", "-fa off", "-kvu", "--cache-reuse 64", "-kvu --cache-reuse 64"),
    LONG.name: ("", "-b 512", "-b 256", "-b 128", "-b 64", "-b 512 -kvu", "-b 512 -fa off"),
}


def main(
    model: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="The GGUF file to serve.")],
    llama_server: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="llama.cpp's server.")],
    scenario: Annotated[str, typer.Option(help=f"One of {', '.join(_SCENARIOS)}.")],
    flags: Annotated[
        list[str] | None, typer.Option(help="A variant to try, such as '-fa on'; repeat for more.")
    ] = None,
    point: Annotated[list[str] | None, typer.Option(help="Only this point; repeat for more.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each variant at each point.")] = 1,
) -> None:
    """Measure llama-server under different flags, in turns, and print a table."""
    threads = psutil.cpu_count() or 1
    variants = [
        LlamaServer(llama_server, model, threads, shlex.split(text), name=text or "(no flags)")
        for text in flags or _VARIANTS[scenario]
    ]
    chosen = _without_own_flags(_SCENARIOS[scenario])
    if point:
        groups = [group for group in chosen.groups if set(group) & set(point)]
        chosen = dataclasses.replace(chosen, groups=groups)
    measurements = run_to_end(_collect(chosen, variants, rounds))
    Console().print(_table(chosen, measurements))


def _without_own_flags(scenario: ServingScenario) -> ServingScenario:
    setup = dataclasses.replace(scenario.setup, llama_server_flags=())
    return dataclasses.replace(scenario, setup=setup)


async def _collect(scenario: Scenario, variants: list[LlamaServer], rounds: int) -> list[Measurement]:
    measurements = []
    async for measurement in scenario.measure(variants, rounds):
        typer.echo(line(measurement), err=True)
        measurements.append(measurement)
    return measurements


def _table(scenario: Scenario, measurements: list[Measurement]) -> Table:
    rounds: dict[tuple[str, str], list[Measurement]] = defaultdict(list)
    for measurement in measurements:
        rounds[measurement.point, measurement.server].append(measurement)
    table = Table("point", "flags", *(metric.label for metric in scenario.metrics), "errors")
    for (point, server), found in rounds.items():
        figures = [number(median(m.metrics[metric.key] for m in found)) for metric in scenario.metrics]
        table.add_row(point, server, *figures, str(sum(len(m.errors) for m in found)))
    return table


if __name__ == "__main__":
    typer.run(main)
