"""Plots of a run, one SVG a scenario."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from benchmarks.measure import Metric, Scenario
from benchmarks.results import Run

_PANEL_INCHES = (3.2, 2.6)
_COLOURS = ("#0072b2", "#e69f00", "#009e73")  # Okabe and Ito: told apart by colour-blind readers too


def write(run: Run, scenario: Scenario, folder: Path) -> Path:
    """Write `benchmarks-<scenario>.svg`: a panel for each metric, bars for each server at each point."""
    folder.mkdir(parents=True, exist_ok=True)
    metrics = [metric for metric in scenario.metrics if _was_measured(run, scenario.name, metric)]
    width, height = _PANEL_INCHES
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": scenario.name, "font.size": 8}):
        figure, panels = plt.subplots(1, len(metrics), figsize=(width * len(metrics), height), squeeze=False)
        for panel, metric in zip(panels[0], metrics, strict=True):
            _draw(panel, run, scenario.name, metric)
        bars, names = panels[0][0].get_legend_handles_labels()
        figure.legend(bars, names, frameon=False, loc="upper center", ncols=len(names))
        figure.tight_layout(rect=(0, 0, 1, 0.92))
        path = folder / f"benchmarks-{scenario.name}.svg"
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)
    return path


def _was_measured(run: Run, scenario: str, metric: Metric) -> bool:
    return any(metric.key in m.metrics for m in run.measurements if m.scenario == scenario)


def _draw(panel: Axes, run: Run, scenario: str, metric: Metric) -> None:
    points, servers = run.points(scenario), run.servers(scenario)
    width = 0.8 / len(servers)
    for index, server in enumerate(servers):
        heights = [run.median(scenario, point, server, metric.key) or 0.0 for point in points]
        places = [place + (index - (len(servers) - 1) / 2) * width for place in range(len(points))]
        panel.bar(places, heights, width, label=server, color=_COLOURS[index % len(_COLOURS)])
    panel.set_xticks(range(len(points)), points)
    panel.set_title(metric.label, fontsize=8)
    panel.spines[["top", "right"]].set_visible(False)
