"""The pages on KServe beside Ray Serve: all figures in one, the evidence for the advice in the other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks import plot, report
from benchmarks.measure import Metric
from benchmarks.platform_operations import CRASH, CRASH_METRICS, SWITCH, SWITCH_METRICS
from benchmarks.platform_scenarios import BY_LOAD, BY_PREFIX, CLOSED, OPEN, PREFIX
from benchmarks.platform_servers import BARE, KSERVE, RAY
from benchmarks.results import Run
from benchmarks.start_scenarios import ColdStart

START = ColdStart(name="platforms-start")
BEGIN = "<!-- Written by `make bench-platforms` from here: don't edit by hand. -->"
END = "<!-- Written by `make bench-platforms` up to here. -->"


def figures(run: Run, folder: Path) -> str:
    """The page with all figures; plots are written into the folder."""
    lines = [
        "# KServe and Ray Serve: figures",
        "",
        "Written by `make bench-platforms`; don't edit by hand. "
        "What they mean: [kserve-vs-ray.md](kserve-vs-ray.md).",
        "",
        f"Date: {run.date}. Rounds: {len({m.round for m in run.measurements if m.scenario == OPEN.name})}.",
    ]
    lines += ["", "```", run.command, "```", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in {**run.machine, **run.versions}.items()]
    for scenario in (CLOSED, OPEN, PREFIX):
        lines += _section(run, scenario.name, scenario.title, scenario.explanation, scenario.metrics)
        if scenario is not PREFIX and run.points(scenario.name):
            lines += ["", f"![{scenario.title}]({plot.write(run, scenario, folder).name})"]
    start = (
        "From starting the command to ready, and to the first token of a request sent right then. Ray's "
        "cluster starts with it; a replica added to a running cluster takes less."
    )
    lines += _section(run, START.name, "Cold start", start, START.metrics)
    switch = "One replica. KServe: a second process beside the first. Ray Serve: in place, by user_config."
    lines += _section(run, SWITCH, "Model switch under load", switch, SWITCH_METRICS)
    crash = "SIGKILL to the process with the only copy of the model; KServe's is started again at once."
    lines += _section(run, CRASH, "A killed replica", crash, CRASH_METRICS)
    return "\n".join(lines) + "\n"


def with_evidence(page: str, run: Run) -> str:
    """The page with the advice, its evidence replaced by this run's.

    Raises:
        ValueError: the page doesn't say where the evidence goes.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the page has no lines {BEGIN!r} and {END!r} to write between")
    return f"{before}{BEGIN}\n\n{evidence(run)}\n\n{END}{after}"


def evidence(run: Run) -> str:
    """What the advice rests on, as Markdown: the figures that decide, side by side."""
    where = f"{run.machine.get('Cores', '?')} cores of {run.machine.get('CPU', '?')}, no GPU"
    lines = [f"Measured on {run.date}: {where}, one small model. {_throughput(run)}", ""]
    lines += _table(run, (BARE, KSERVE, RAY), _PLATFORM_ROWS)
    lines += ["", f"Two replicas, prompts that share beginnings. {_prefixes(run)}", ""]
    lines += _table(run, (BY_LOAD, BY_PREFIX), _PREFIX_ROWS)
    return "\n".join(lines)


_PLATFORM_ROWS = (
    *((CLOSED.name, point, "tokens_per_second", f"Tokens/s, {point}") for point in ("1 client", "8 clients")),
    *(
        (CLOSED.name, point, "first_token_p50", f"Time to first token p50, {point}, s")
        for point in ("1 client", "8 clients")
    ),
    *(
        (CLOSED.name, point, "inter_token_p50", f"Inter-token latency p50, {point}, s")
        for point in ("1 client", "8 clients")
    ),
    (OPEN.name, OPEN.groups[0][0], "tokens_per_second", f"Tokens/s at {OPEN.groups[0][0]}"),
    (OPEN.name, OPEN.groups[0][0], "first_token_p95", f"Time to first token p95 at {OPEN.groups[0][0]}, s"),
    (START.name, "first request", "first_token_seconds", "Command to first token, s"),
    (CLOSED.name, "8 clients", "memory_mib", "Memory of all processes, MiB"),
    (CLOSED.name, "8 clients", "largest_mib", "Memory of the process with the model, MiB"),
    (SWITCH, "3 clients", "failed", "Requests failed in a model switch"),
    (SWITCH, "3 clients", "seconds", "Time of a model switch, s"),
    (CRASH, "3 clients", "running", "Killed replica: requests running"),
    (CRASH, "3 clients", "lost", "Killed replica: of these lost"),
    (CRASH, "3 clients", "refused", "Killed replica: refused until it was back"),
    (CRASH, "3 clients", "recovery_seconds", "Killed replica: until the next good answer, s"),
)
_PREFIX_ROWS = tuple((PREFIX.name, "2 replicas", metric.key, metric.label) for metric in PREFIX.metrics)


def _table(run: Run, servers: Sequence[str], rows: Sequence[tuple[str, str, str, str]]) -> list[str]:
    lines = [f"| | {' | '.join(servers)} |", f"|---|{'---|' * len(servers)}"]
    for scenario, point, metric, label in rows:
        cells = [report.figure(run.of(scenario, point, server), metric) for server in servers]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return lines


def _throughput(run: Run) -> str:
    """What the servers give of the engine's tokens per second, and Ray Serve of KServe's."""
    sentences = []
    for server, over in ((KSERVE, BARE), (RAY, BARE), (RAY, KSERVE)):
        shares = {
            point: _ratio(run, CLOSED.name, point, "tokens_per_second", server, over)
            for point in CLOSED.groups[0]
        }
        shown = [f"{share:.0%} with {point}" for point, share in shares.items() if share is not None]
        if shown:
            whose = "the bare engine's" if over == BARE else f"{over}'s"
            first, *others = shown
            first = first.replace(" with", f" of {whose} tokens per second with", 1)
            sentences.append(f"{server} gave {' and '.join([first, *others])}.")
    return " ".join(sentences)


def _prefixes(run: Run) -> str:
    """Where routing by prefix is ahead of routing by load, and where it isn't."""
    better, worse = [], []
    for metric in PREFIX.metrics:
        ratio = _ratio(run, PREFIX.name, "2 replicas", metric.key, BY_PREFIX, BY_LOAD)
        if ratio is None or metric.key == "cached_share":
            continue
        values = (run.median(PREFIX.name, "2 replicas", one, metric.key) for one in (BY_PREFIX, BY_LOAD))
        shown = " s against ".join(report.number(value or 0.0) for value in values)
        (better if ratio < 1 else worse).append(f"{metric.label.removesuffix(', s')}, {shown} s")
    sentences = [("Routing by prefix was faster:", better), ("It was slower:", worse)]
    return " ".join(f"{start} {'; '.join(found)}." for start, found in sentences if found)


def _ratio(run: Run, scenario: str, point: str, metric: str, server: str, over: str) -> float | None:
    one, other = (run.median(scenario, point, name, metric) for name in (server, over))
    return None if one is None or not other else one / other


def _section(run: Run, name: str, title: str, explanation: str, metrics: Sequence[Metric]) -> list[str]:
    points = run.points(name)
    if not points:
        return []
    servers = list(dict.fromkeys(m.server for m in run.measurements if m.scenario == name))
    lines = ["", f"## {title}", "", explanation, ""]
    lines += [f"| Figure | Point | {' | '.join(servers)} |", f"|---|---|{'---|' * len(servers)}"]
    for metric in metrics:
        for point in points:
            cells = [report.figure(run.of(name, point, server), metric.key) for server in servers]
            lines.append(f"| {metric.label} | {point} | {' | '.join(cells)} |")
    failed = [m for m in run.measurements if m.scenario == name and m.errors]
    lines += [f"\n{m.server}, {m.point}: {len(m.errors)} failed, the first: {m.errors[0]}" for m in failed]
    return lines
