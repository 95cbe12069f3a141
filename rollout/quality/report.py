"""The quality gate's report: a table for the terminal, and a page that needs no other file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader
from rich.console import Group
from rich.table import Table
from rich.text import Text

from rollout.quality.gate import Quality, QualityLimits
from rollout.quality.scoring import Compared
from rollout.verdict import Figure, Revision, Verdict

_SHOWN_IN_TABLE = 5
_TABLE_CHARACTERS = 160


@dataclass(frozen=True, slots=True)
class Report:
    """A run of the golden set with its verdict."""

    stable: Revision
    canary: Revision
    quality: Quality
    limits: QualityLimits

    @property
    def verdict(self) -> Verdict:
        return self.quality.verdict(self.limits)


def table(report: Report) -> Group:
    """The figures, and the prompts that changed most, for rich."""
    figures = Table("", report.stable.name, report.canary.name, "limit", title="Golden set")
    for figure in report.verdict.figures:
        values = (value(figure, number) for number in (figure.stable, figure.canary, figure.limit))
        figures.add_row(figure.name, *values)
    changed = Table("prompt", "stable", "canary", "nats/token", title="Changed most")
    for one in report.quality.most_changed[:_SHOWN_IN_TABLE]:
        # Text, since answers may hold what looks like rich's markup.
        changed.add_row(Text(one.prompt.id), _answer(one, canary=False), _answer(one, canary=True), fall(one))
    return Group(figures, *([changed] if changed.row_count else []))


def write_html(report: Report, folder: Path) -> Path:
    """Write the page; its name tells the service, the canary and the step."""
    folder.mkdir(parents=True, exist_ok=True)
    canary = report.canary
    path = folder / f"{canary.service}-{canary.name}-{canary.traffic_percent}.html"
    path.write_text(html(report), encoding="utf-8")
    return path


def html(report: Report) -> str:
    """The page as text."""
    environment = Environment(loader=PackageLoader("rollout.quality", "."), autoescape=True)
    template = environment.get_template("report.html.jinja")
    return template.render(report=report, verdict=report.verdict, value=value, fall=fall)


def value(figure: Figure, number: float | None) -> str:
    """A figure's number with its unit; a dash where there is none."""
    if number is None:
        return "-"
    return f"{number:.0f}%" if figure.unit == "%" else f"{number:.2f} {figure.unit}"


def fall(one: Compared) -> str:
    """By how much the stable model finds the canary's answer less likely than its own."""
    return "-" if one.logprob_drop is None else f"{-one.logprob_drop:+.2f}"


def _answer(one: Compared, *, canary: bool) -> Text:
    answer = one.canary if canary else one.stable
    text = answer.text if answer.error is None else f"({answer.error})"
    return Text(text if len(text) <= _TABLE_CHARACTERS else text[:_TABLE_CHARACTERS] + "...")
