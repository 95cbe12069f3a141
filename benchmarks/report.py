"""Renders a run as docs/benchmarks.md. Figures only as measured, also where they fall short."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from benchmarks import plot
from benchmarks.measure import Goal, Metric, Scenario
from benchmarks.results import Measurement, Run

_MISSING = "-"


def write(run: Run, scenarios: Sequence[Scenario], page: Path) -> None:
    """Write the page, and a plot beside it for each scenario that compares servers at several points."""
    measured = [scenario for scenario in scenarios if run.points(scenario.name)]
    plots = {
        scenario.name: plot.write(run, scenario, page.parent).name
        for scenario in measured
        if scenario.same_work and len(run.points(scenario.name)) > 1
    }
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(render(run, measured, plots))


def render(run: Run, scenarios: Sequence[Scenario], plots: dict[str, str]) -> str:
    """The page as Markdown.

    Args:
        run: what was measured.
        scenarios: those that were measured, in the order of the page.
        plots: file name of the plot of each scenario that has one.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown, not HTML
    )
    sections = [
        {
            "scenario": scenario,
            "servers": run.servers(scenario.name),
            "rows": table(run, scenario),
            "work": work_table(run, scenario),
            "remarks": remarks(run, scenario),
            "trials": trials(run, scenario),
            "plot": plots.get(scenario.name),
        }
        for scenario in scenarios
    ]
    rounds = len({m.round for m in run.measurements})
    return environment.get_template("report.md.jinja").render(run=run, rounds=rounds, sections=sections)


def trials(run: Run, scenario: Scenario) -> str:
    """What decided on llama-server's flags, and what each of them gave; empty where none were tried."""
    found, tuning = run.trials.get(scenario.name, ()), getattr(scenario, "tuning", None)
    if not found or tuning is None:
        return ""
    label = next(metric.label for metric in scenario.metrics if metric.key == tuning.metric)
    shown = (
        f"{f'`{one.flags}`' if one.flags else 'none'} {_MISSING if one.value is None else number(one.value)}"
        f"{' (taken)' if one.taken else ''}"
        for one in found
    )
    return f"{label}, at {tuning.point}: {', '.join(shown)}"


def table(run: Run, scenario: Scenario) -> list[list[str]]:
    """A row per point and metric: point, metric, each server's figure, ratio, goal, whether it is met."""
    return [
        _row(run, scenario.name, point, metric)
        for metric in scenario.metrics
        for point in run.points(scenario.name)
    ]


def _row(run: Run, scenario: str, point: str, metric: Metric) -> list[str]:
    ratio = run.ratio(scenario, point, metric.key)
    figures = [figure(run.of(scenario, point, server), metric.key) for server in run.servers(scenario)]
    shown_ratio = _MISSING if ratio is None else number(ratio)
    return [metric.label, point, *figures, shown_ratio, *_verdict(metric.goals.get(point), ratio)]


def _verdict(goal: Goal | None, ratio: float | None) -> tuple[str, str]:
    if goal is None:
        return "", ""
    if ratio is None:
        return str(goal), _MISSING
    return str(goal), "yes" if goal.is_met(ratio) else "no"


def figure(rounds: Sequence[Measurement], key: str) -> str:
    """The median, and the range where rounds differ."""
    values = [m.metrics[key] for m in rounds if key in m.metrics]
    if not values:
        return _MISSING
    low, high = number(min(values)), number(max(values))
    middle = number(median(values))
    return middle if low == high else f"{middle} ({low} to {high})"


def work_table(run: Run, scenario: Scenario) -> list[list[str]]:
    """Per point and server, medians over the rounds: tokens, CPU time, memory, and the bystanders' CPU."""
    name = scenario.name
    return [
        [point, server, *_work(run.of(name, point, server))]
        for point in run.points(name)
        for server in run.servers(name)
        if run.of(name, point, server)
    ]


def _work(rounds: Sequence[Measurement]) -> list[str]:
    return [
        number(median(m.prompt_tokens for m in rounds)),
        number(median(m.completion_tokens for m in rounds)),
        number(median(m.server_cpu_seconds for m in rounds)),
        number(median(m.server_memory_bytes for m in rounds) / 2**20),
        f"{100 * max(m.client_cpu_seconds / m.seconds for m in rounds):.1f} %",
        f"{100 * max(m.idle_cpu_seconds / m.seconds for m in rounds):.1f} %",
    ]


def remarks(run: Run, scenario: Scenario) -> list[str]:
    """What makes a comparison doubtful: failed requests, and servers that did not do the same work."""
    found = [
        f"{m.server}, {m.point}, round {m.round + 1}: {len(m.errors)} errors, the first: {m.errors[0]}"
        for m in run.measurements
        if m.scenario == scenario.name and m.errors
    ]
    for point in run.points(scenario.name):
        work = {
            server: sum(m.prompt_tokens + m.completion_tokens for m in run.of(scenario.name, point, server))
            for server in run.servers(scenario.name)
            if scenario.same_work
        }
        if len(set(work.values())) > 1:
            shown = ", ".join(f"{server} {tokens}" for server, tokens in work.items())
            found.append(f"{point}: the servers processed different numbers of tokens ({shown})")
    return [" ".join(remark.split()) for remark in found]


def number(value: float) -> str:
    """Three significant digits, whole numbers whole."""
    if value == int(value) or abs(value) >= 1000:
        return f"{value:.0f}"
    return f"{value:#.3g}".removesuffix(".")


def line(measurement: Measurement) -> str:
    """One measurement in one line, for the terminal."""
    metrics = ", ".join(f"{key} {number(value)}" for key, value in measurement.metrics.items())
    errors = f", {len(measurement.errors)} ERRORS: {measurement.errors[0]}" if measurement.errors else ""
    return f"{measurement.server}, {measurement.point}, round {measurement.round + 1}: {metrics}{errors}"


def missed_goals(run: Run, scenarios: Sequence[Scenario]) -> list[str]:
    """One line for each goal that our server does not reach."""
    return [
        f"{scenario.title}, {point}: {metric.label} is {number(ratio)} times llama-server's, goal {goal}"
        for scenario in scenarios
        for metric in scenario.metrics
        for point, goal in metric.goals.items()
        if (ratio := run.ratio(scenario.name, point, metric.key)) is not None and not goal.is_met(ratio)
    ]
