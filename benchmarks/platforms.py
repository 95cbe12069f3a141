"""Measures KServe beside Ray Serve and writes the figures into docs/kserve-vs-ray-figures.md.

The parts can run one at a time; each replaces its own figures in the results and leaves the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import psutil
import typer
from rich.console import Console

from benchmarks import plot, report
from benchmarks.machine import describe_machine, describe_versions
from benchmarks.measure import Metric, run_to_end
from benchmarks.platform_operations import CRASH, CRASH_METRICS, SWITCH, SWITCH_METRICS
from benchmarks.platform_operations import measure as measure_operations
from benchmarks.platform_scenarios import CLOSED, OPEN, PREFIX, WithBareEngine
from benchmarks.platform_servers import kserve_server, ray_server
from benchmarks.results import Measurement, Run
from benchmarks.scenarios import ServingScenario
from benchmarks.servers import Server
from benchmarks.start_scenarios import ColdStart

_console = Console(stderr=True)
PARTS = ("closed", "open", "start", "prefix", "operations")
_START = ColdStart(name="platforms-start")


def main(
    model: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="The GGUF file to serve.")],
    part: Annotated[
        list[str] | None, typer.Option(help=f"Run only this part of {', '.join(PARTS)}. Default: all.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each platform at each point.")] = 2,
    threads: Annotated[
        int, typer.Option(min=1, help="Threads of each platform. Default: this machine's cores.")
    ] = psutil.cpu_count() or 1,
    page: Annotated[Path, typer.Option(help="The page to write; plots go beside it.")] = Path(
        "docs/kserve-vs-ray-figures.md"
    ),
    results: Annotated[Path, typer.Option(help="The raw results, as JSON.")] = Path(
        ".cache/benchmarks/platforms.json"
    ),
) -> None:
    """Measure both platforms on this machine; write tables and plots."""
    run = _former(results, model)
    for name in part or PARTS:
        if name not in PARTS:
            raise typer.BadParameter(f"no part {name!r}; there are {', '.join(PARTS)}")
        measured = run_to_end(_measure(name, model, threads, rounds))
        for measurement in measured:
            _console.print(report.line(measurement), markup=False, highlight=False, soft_wrap=True)
        new = {measurement.scenario for measurement in measured}
        kept = [former for former in run.measurements if former.scenario not in new]
        run = replace(run, measurements=[*kept, *measured])
        run.save(results)
    page.write_text(render(run, page.parent))
    _console.print(f"Wrote {page} and {results}", markup=False)


def _former(results: Path, model: Path) -> Run:
    """The results so far, under this run's date and machine."""
    former = Run.load(results).measurements if results.exists() else ()
    return Run(
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        command=f"python -m benchmarks.platforms --model {model.name}",
        machine=describe_machine(),
        versions={**describe_versions(None), "ray": _ray_version()},
        server_commands={},
        measurements=former,
    )


async def _measure(part: str, model: Path, threads: int, rounds: int) -> list[Measurement]:
    servers: list[Server] = [kserve_server(model, threads), ray_server(model, threads)]
    if part == "operations":
        return await measure_operations(model, threads)
    if part == "start":
        return [measurement async for measurement in _START.measure(servers, rounds)]
    if part == "closed":
        closed = WithBareEngine(CLOSED, model, threads)
        return [measurement async for measurement in closed.measure(servers, rounds)]
    if part == "prefix":
        options = ("--replicas", "2", "--routing")
        servers = [
            ray_server(model, 1, f"routing by {routing}", (*options, routing))
            for routing in ("load", "prefix")
        ]
        return [measurement async for measurement in PREFIX.measure(servers, 1)]
    return [measurement async for measurement in OPEN.measure(servers, rounds)]


def render(run: Run, folder: Path) -> str:
    """The page; plots are written into the folder."""
    lines = ["# KServe and Ray Serve: figures", ""]
    lines += ["Written by `make bench-platforms`; don't edit by hand. What they mean: ", "", ""]
    lines[-3] += "[kserve-vs-ray.md](kserve-vs-ray.md)."
    lines += [f"Date: {run.date}.", "", "```", run.command, "```", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in {**run.machine, **run.versions}.items()]
    for scenario in (CLOSED, OPEN, PREFIX):
        lines += _section(run, scenario.name, scenario.title, scenario.explanation, scenario.metrics)
        if scenario is not PREFIX and run.points(scenario.name):
            lines += ["", f"![{scenario.title}]({_plot(run, scenario, folder)})"]
    start = (
        "From starting the command to ready, and to the first token of a request sent right then. Ray's "
        "cluster starts with it; a replica added to a running cluster takes less."
    )
    lines += _section(run, _START.name, "Cold start", start, _START.metrics)
    switch = "One replica. KServe: a second process beside the first. Ray Serve: in place, by user_config."
    lines += _section(run, SWITCH, "Model switch under load", switch, SWITCH_METRICS)
    crash = "SIGKILL to the process with the only copy of the model; KServe's is started again at once."
    lines += _section(run, CRASH, "A killed replica", crash, CRASH_METRICS)
    return "\n".join(lines) + "\n"


def _section(run: Run, name: str, title: str, explanation: str, metrics: Sequence[Metric]) -> list[str]:
    points = run.points(name)
    if not points:
        return []
    servers = list(dict.fromkeys(m.server for m in run.measurements if m.scenario == name))
    lines = ["", f"## {title}", "", explanation, ""]
    lines += [f"| Figure | Point | {' | '.join(servers)} |", f"|---|---|{'---|' * len(servers)}"]
    for metric in metrics:
        for point in points:
            figures = [report.figure(run.of(name, point, server), metric.key) for server in servers]
            lines.append(f"| {metric.label} | {point} | {' | '.join(figures)} |")
    failed = [m for m in run.measurements if m.scenario == name and m.errors]
    lines += [f"\n{m.server}, {m.point}: {len(m.errors)} failed, the first: {m.errors[0]}" for m in failed]
    return lines


def _plot(run: Run, scenario: ServingScenario, folder: Path) -> str:
    return plot.write(run, scenario, folder).name


def _ray_version() -> str:
    from importlib.metadata import version

    return version("ray")


if __name__ == "__main__":
    typer.run(main)
