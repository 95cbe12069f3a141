"""Measures KServe beside Ray Serve and writes the figures, and the evidence for the advice, into docs/.

The parts can run one at a time; each replaces its own figures in the results and leaves the others.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import psutil
import typer
from rich.console import Console

from benchmarks import platform_page, report
from benchmarks.machine import describe_machine, describe_versions
from benchmarks.measure import run_to_end
from benchmarks.platform_operations import measure as measure_operations
from benchmarks.platform_page import START
from benchmarks.platform_scenarios import CLOSED, OPEN, PREFIX, ROUTING, WithBareEngine
from benchmarks.platform_servers import kserve_server, ray_server
from benchmarks.ray_cluster import RayClusterError
from benchmarks.results import Measurement, Run
from benchmarks.servers import Server, ServerError

_console = Console(stderr=True)
PARTS = ("closed", "open", "start", "prefix", "operations")


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
    advice: Annotated[Path, typer.Option(help="The page whose evidence to replace.")] = Path(
        "docs/kserve-vs-ray.md"
    ),
    results: Annotated[Path, typer.Option(help="The raw results, as JSON.")] = Path(
        ".cache/benchmarks/platforms.json"
    ),
) -> None:
    """Measure both platforms on this machine; write tables and plots."""
    if unknown := sorted({*(part or ())} - {*PARTS}):
        raise typer.BadParameter(f"no part {unknown[0]!r}; there are {', '.join(PARTS)}")
    run = _run_of(model, results if part else None)
    for name in part or PARTS:
        try:
            measured = run_to_end(_measure(name, model, threads, rounds))
        except (ServerError, RayClusterError) as failure:
            _console.print(str(failure), style="red", markup=False)
            raise typer.Exit(1) from None
        for measurement in measured:
            _console.print(report.line(measurement), markup=False, highlight=False, soft_wrap=True)
        new = {measurement.scenario for measurement in measured}
        kept = [former for former in run.measurements if former.scenario not in new]
        run = replace(run, measurements=[*kept, *measured])
        run.save(results)
    page.write_text(platform_page.figures(run, page.parent))
    advice.write_text(platform_page.with_evidence(advice.read_text(), run))
    _console.print(f"Wrote {page}, the evidence in {advice} and {results}", markup=False)


def _run_of(model: Path, former_results: Path | None) -> Run:
    """This run, with the former results that it adds to where there are any."""
    former = Run.load(former_results).measurements if former_results and former_results.exists() else ()
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
        return [measurement async for measurement in START.measure(servers, rounds)]
    if part == "closed":
        closed = WithBareEngine(CLOSED, model, threads)
        return [measurement async for measurement in closed.measure(servers, rounds)]
    if part == "prefix":
        options = ("--replicas", "2", "--routing")
        servers = [ray_server(model, 1, name, (*options, routing)) for name, routing in ROUTING.items()]
        return [measurement async for measurement in PREFIX.measure(servers, rounds)]
    return [measurement async for measurement in OPEN.measure(servers, rounds)]


def _ray_version() -> str:
    from importlib.metadata import version

    return version("ray")


if __name__ == "__main__":
    typer.run(main)
