"""Measures this server beside llama-server and writes the figures into docs/benchmarks.md."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import psutil
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import report
from benchmarks.chats import CHAT
from benchmarks.machine import describe_machine, describe_versions
from benchmarks.measure import Scenario, run_to_end
from benchmarks.restart_scenario import WarmRestart
from benchmarks.results import LLAMA_SERVER, OURS, Measurement, Run, Trial
from benchmarks.scenarios import DISTINCT, LONG, SHARED, ServingScenario
from benchmarks.servers import LlamaServer, OurServer, Server, ServerError, shown_command
from benchmarks.start_scenarios import ColdStart, OriginalContainerContract
from benchmarks.tuning import tune

_console = Console(stderr=True)


def all_scenarios(model: Path) -> list[Scenario]:
    """Every scenario, in the order in which they run."""
    return [DISTINCT, SHARED, CHAT, LONG, ColdStart(), WarmRestart(), OriginalContainerContract(model)]


def main(
    model: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="The GGUF file to serve.")],
    llama_server: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="llama.cpp's server, for the comparison."),
    ] = None,
    scenario: Annotated[
        list[str] | None, typer.Option(help="Run only this scenario; repeat for more. Default: all.")
    ] = None,
    server: Annotated[
        list[str] | None,
        typer.Option(help=f"Measure only this server, {OURS} or {LLAMA_SERVER}. Default: both."),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each server at each point.")] = 2,
    threads: Annotated[
        int, typer.Option(min=1, help="Threads of each server. Default: this machine's cores.")
    ] = psutil.cpu_count() or 1,
    llama_server_flags: Annotated[
        str | None,
        typer.Option(
            help="Flags for llama-server, such as '-fa on -b 512'. Default: its best ones, found before each "
            "scenario.",
            show_default=False,
        ),
    ] = None,
    page: Annotated[Path, typer.Option(help="The page to write; plots go beside it.")] = Path(
        "docs/benchmarks.md"
    ),
    results: Annotated[Path, typer.Option(help="Folder for the raw results, as JSON.")] = Path(
        ".cache/benchmarks"
    ),
) -> None:
    """Measure this server beside llama-server; write tables, ratios and plots."""
    scenarios = _chosen(all_scenarios(model), scenario)
    servers: list[Server] = [OurServer(model, threads)]
    if llama_server is not None:
        flags = shlex.split(llama_server_flags or "")
        servers.append(LlamaServer(llama_server, model, threads, flags))
    servers = [one for one in servers if not server or one.name in server]
    if not servers:
        raise typer.BadParameter(f"choose {OURS} or {LLAMA_SERVER} (which needs --llama-server)")
    started = datetime.now(UTC)
    trials: dict[str, tuple[Trial, ...]] = {}
    try:
        if llama_server_flags is None:
            scenarios, trials = run_to_end(_tuned(scenarios, servers))
        measurements = run_to_end(_measure(scenarios, servers, rounds))
    except ServerError as failure:
        _console.print(str(failure), style="red", markup=False)
        raise typer.Exit(1) from None
    run = Run(
        date=started.strftime("%Y-%m-%d %H:%M UTC"),
        command=_shown_invocation(),
        machine=describe_machine(),
        versions=describe_versions(llama_server),
        server_commands={
            one.name: {each.name: shown_command(each, one.setup) for each in servers} for one in scenarios
        },
        measurements=measurements,
        trials=trials,
    )
    saved = results / f"{started:%Y%m%dT%H%M%S}.json"
    run.save(saved)
    report.write(run, scenarios, page)
    _console.print(f"Wrote {page} and {saved}", markup=False)
    for line in report.missed_goals(run, scenarios):
        _console.print(f"goal missed: {line}", style="yellow", markup=False)


def _chosen(scenarios: Sequence[Scenario], names: Sequence[str] | None) -> list[Scenario]:
    known = [scenario.name for scenario in scenarios]
    for name in names or ():
        if name not in known:
            raise typer.BadParameter(f"no scenario {name!r}; there are {', '.join(known)}")
    return [scenario for scenario in scenarios if not names or scenario.name in names]


async def _tuned(
    scenarios: Sequence[Scenario], servers: Sequence[Server]
) -> tuple[list[Scenario], dict[str, tuple[Trial, ...]]]:
    """The scenarios with llama-server's best flags, where it is measured, and what was tried."""
    tuned: list[Scenario] = list(scenarios)
    trials: dict[str, tuple[Trial, ...]] = {}
    for server in servers:
        for number, one in enumerate(scenarios):
            if isinstance(server, LlamaServer) and isinstance(one, ServingScenario):
                tuned[number], trials[one.name] = await tune(one, server, _console.print)
    return tuned, trials


async def _measure(
    scenarios: Sequence[Scenario], servers: Sequence[Server], rounds: int
) -> list[Measurement]:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    measurements: list[Measurement] = []
    # No refresh thread: it would take CPU time from the servers while they are measured.
    with Progress(*columns, console=_console, auto_refresh=False) as progress:
        for scenario in scenarios:
            task = progress.add_task(scenario.title, total=scenario.measurement_count(servers, rounds))
            progress.refresh()
            async for measurement in scenario.measure(servers, rounds):
                measurements.append(measurement)
                progress.console.print(
                    report.line(measurement), markup=False, highlight=False, soft_wrap=True
                )
                progress.advance(task)
                progress.refresh()
    return measurements


def _shown_invocation() -> str:
    """The command line with names of files instead of their paths."""
    arguments = [Path(part).name if part.startswith("/") else part for part in sys.argv[1:]]
    return shlex.join(["python", "-m", "benchmarks", *arguments])


if __name__ == "__main__":
    typer.run(main)
