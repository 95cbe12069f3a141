"""How a bench's figures are shown: progress, a table, a plot."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from predictor.client.bench import Load, Report, Statistics
from predictor.client.endpoint import ClientError
from predictor.client.load import Stream
from predictor.client.records import LoadResult, percentile

_REFRESH_SECONDS = 0.5
_PANEL_INCHES = (3.6, 2.8)


class LoadProgress(Progress):
    """A bar of requests that have ended.

    It has no thread of its own, which would take CPU time from a server on this machine, and is drawn at most
    twice a second.
    """

    def __init__(self, console: Console, total: int | None) -> None:
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
        super().__init__(*columns, console=console, auto_refresh=False)
        self._load = self.add_task("requests", total=total)
        self._drawn = 0.0
        self._failed = 0

    def ended(self, stream: Stream) -> None:
        """Count one request."""
        self._failed += stream.error is not None
        text = f"requests, {self._failed} failed" if self._failed else "requests"
        self.update(self._load, advance=1, description=text)
        if stream.ended - self._drawn > _REFRESH_SECONDS:
            self._drawn = time.perf_counter()
            self.refresh()


def tables(report: Report) -> list[Table]:
    """The latencies and the throughput."""
    latencies = Table("milliseconds", *(f"{name:>8}" for name in ("mean", "p50", "p95", "p99")))
    for column in latencies.columns[1:]:
        column.justify = "right"
    rows: list[tuple[str, Statistics | None]] = [
        ("time to first token", report.time_to_first_token),
        ("inter-token latency, per request", report.inter_token_latency),
        ("gap between two events", report.gap),
        ("end to end", report.latency),
    ]
    for label, found in rows:
        if found is not None:
            values = (found.mean, found.p50, found.p95, found.p99)
            latencies.add_row(label, *(f"{value * 1000:,.1f}" for value in values))
    totals = Table("throughput", "")
    totals.columns[1].justify = "right"
    for label, value in (
        ("requests/s", f"{report.requests_per_second:,.3f}"),
        ("output tokens/s", f"{report.output_tokens_per_second:,.1f}"),
        ("prompt and output tokens/s", f"{report.total_tokens_per_second:,.1f}"),
        ("requests answered", str(report.completed)),
        ("requests failed", str(report.failed)),
        ("prompt tokens", f"{report.prompt_tokens:,}"),
        ("output tokens", f"{report.completion_tokens:,}"),
        ("seconds", f"{report.seconds:.2f}"),
    ):
        totals.add_row(label, value)
    return [latencies, totals]


def check_plot(path: Path) -> None:
    """Fail before the load rather than after it.

    Raises:
        ClientError: matplotlib isn't installed, or doesn't know the kind of file.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
    except ImportError:
        raise ClientError("--plot needs matplotlib: pip install 'kserve-llamacpp[bench]'") from None
    if path.suffix.removeprefix(".") not in FigureCanvasAgg.get_supported_filetypes():
        raise ClientError(f"--plot {path}: give a file name that ends with .svg, .png or .pdf")


def plot_title(load: Load, report: Report) -> str:
    """What was asked and how, in one line."""
    how = f"{load.concurrency} at once" if load.request_rate is None else f"{load.request_rate:g} per second"
    return (
        f"{load.model}: {report.completed} requests, {how}, about {load.prompt_tokens} prompt tokens and "
        f"{load.output_tokens} output tokens each"
    )


def write_plot(result: LoadResult, path: Path, title: str) -> None:
    """Draw the distribution of each latency over the requests.

    Args:
        result: of the load.
        path: an image file; its name's ending says of which kind.
        title: what was asked and how, above the panels.

    Raises:
        OSError: the file can't be written.
    """
    from matplotlib.figure import Figure

    panels = [
        ("time to first token", result.times_to_first_token),
        ("gap between two events", result.inter_token_latencies),
        ("end to end", [record.duration for record in result.records if record.error is None]),
    ]
    panels = [(name, values) for name, values in panels if values]
    width, height = _PANEL_INCHES
    figure = Figure(figsize=(width * max(len(panels), 1), height), layout="constrained")
    figure.suptitle(title, fontsize=9)
    for axes, (name, values) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _draw_distribution(axes, name, values)
    figure.savefig(path)


def _draw_distribution(axes, title: str, values: Sequence[float]) -> None:  # type: ignore[no-untyped-def]
    milliseconds = [value * 1000 for value in values]
    axes.ecdf(milliseconds)
    # In the legend, since marks at the lines would cover each other where the percentiles are close.
    for percent, style in ((50, ":"), (95, "--"), (99, "-.")):
        place = percentile(milliseconds, percent)
        axes.axvline(place, linestyle=style, color="grey", linewidth=1, label=f"p{percent} {place:,.0f} ms")
    axes.legend(fontsize=7, loc="lower right", frameon=True)
    axes.set(title=title, xlabel="ms", ylabel="share of all", ylim=(0, 1.02))
    axes.spines[["top", "right"]].set_visible(False)
