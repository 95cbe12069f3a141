"""What a rollout looks like on a terminal."""

from __future__ import annotations

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from rollout.record import Entry, Phase, Record
from rollout.result import Snapshot
from rollout.verdict import Decision, Figure, Verdict

_BAR = 40
_COLOURS = {Decision.PROCEED: "green", Decision.WAIT: "yellow", Decision.ROLL_BACK: "red"}


def screen(snapshot: Snapshot) -> RenderableType:
    """One rollout with its traffic, readiness, figures and verdict."""
    record = snapshot.record
    if record is None:
        return Text(f"{snapshot.name} has had no rollout yet")
    parts: list[RenderableType] = [_head(snapshot, record)]
    if record.phase.active:
        parts += [_traffic(snapshot, record), _steps(record)]
    if record.paused:
        parts.append(Text(f"paused: {record.paused}", style="yellow"))
    if snapshot.unreachable:
        parts.append(Text(snapshot.unreachable, style="red"))
    if snapshot.foreign and not record.paused:
        parts.append(Text(snapshot.foreign, style="red"))
    if snapshot.verdict:
        parts += _verdict(snapshot.verdict)
    if snapshot.last:
        parts.append(Text(_line(snapshot.last), style="dim"))
    return Group(*parts)


def history(entries: tuple[Entry, ...]) -> RenderableType:
    """A table of what happened, oldest first."""
    table = Table("time (UTC)", "by", "no.", "what", "canary", "model", "why", box=None)
    for entry in entries:
        at = entry.at.replace("+00:00", "").replace("T", " ")
        why = "; ".join(entry.reasons)
        table.add_row(at, entry.by, str(entry.number), entry.action, f"{entry.percent}%", entry.model, why)
    return table


class Progress:
    """The live display of a command that waits: a screen on a terminal, a line per change elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = (
            Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        )
        self._printed = ""

    def __enter__(self) -> Progress:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def show(self, snapshot: Snapshot) -> None:
        """Take up a new look at the rollout."""
        if self._live:
            self._live.update(screen(snapshot), refresh=True)
        elif (text := _plain(snapshot)) != self._printed:
            self._printed = text
            self._console.print(text, highlight=False, soft_wrap=True)


def _head(snapshot: Snapshot, record: Record) -> Text:
    text = Text.assemble((f"{snapshot.namespace}/{snapshot.name}", "bold"), f"  {record.mode}  ")
    text.append(str(record.phase), style="red" if record.phase.going_back else "green")
    text.append(
        f"\n{_model(record)} -> {record.model}\nstarted by {record.started_by} at {record.started_at}"
    )
    return text


def _model(record: Record) -> str:
    return str((record.stable.get("model") or {}).get("storageUri", "?"))


def _traffic(snapshot: Snapshot, record: Record) -> Table:
    observed = snapshot.observed
    share = observed.percent if observed else None
    table = Table("", "traffic", "", "state", box=None, show_header=False)
    canary_state = _readiness(snapshot, record)
    stable_share = None if share is None else 100 - share
    canary_name = record.canary_revision or (observed.canary_revision if observed else "") or "canary"
    for name, percent, state, colour in (
        (record.stable_revision, stable_share, "stable", "blue"),
        (canary_name, share, canary_state, "magenta"),
    ):
        filled = 0 if percent is None else round(_BAR * percent / 100)
        bar = Text("█" * filled, style=colour) + Text("░" * (_BAR - filled), style="dim")
        table.add_row(name, "?" if percent is None else f"{percent}%", bar, state)
    return table


def _readiness(snapshot: Snapshot, record: Record) -> str:
    observed = snapshot.observed
    if observed is None or record.phase is not Phase.PROGRESSING:
        return "canary"
    if observed.failure:
        return f"canary, failed: {observed.failure}"
    if not observed.ready:
        return "canary, starting"
    return "canary, ready" if observed.settled else f"canary, ready, on its way to {record.percent}%"


def _steps(record: Record) -> Text:
    text = Text("steps ")
    for step in (0, *record.plan.steps):
        style = "bold green" if step == record.percent else "green" if step < record.percent else "dim"
        text.append(f" {step}%", style=style)
    text.append(f"  each at least {record.plan.interval_s:g} s", style="dim")
    return text


def figures(verdict: Verdict) -> RenderableType:
    """A table of what a verdict rests on."""
    table = Table("", "stable", "canary", "limit", "samples", box=None)
    for figure in verdict.figures:
        samples = "" if figure.samples is None else str(figure.samples)
        values = (_shown(figure, value) for value in (figure.stable, figure.canary, figure.limit))
        table.add_row(figure.name, *values, samples)
    return table


def _verdict(verdict: Verdict) -> list[RenderableType]:
    parts: list[RenderableType] = [figures(verdict)] if verdict.figures else []
    reasons = "; ".join(verdict.reasons)
    parts.append(Text(f"verdict: {verdict.decision}. {reasons}", style=_COLOURS[verdict.decision]))
    parts += [Text(f"report: {report}") for report in verdict.reports]
    return parts


def _shown(figure: Figure, value: float | None) -> str:
    return "-" if value is None else f"{value:.3g} {figure.unit}".rstrip()


def _plain(snapshot: Snapshot) -> str:
    """One line for logs; it changes only when something worth a line has happened."""
    record, observed = snapshot.record, snapshot.observed
    if record is None:
        return f"{snapshot.name}: no rollout"
    parts = [f"{snapshot.name}: {record.phase} at {record.percent}%"]
    if observed and record.phase is Phase.PROGRESSING:
        parts.append(_readiness(snapshot, record))
    if snapshot.verdict:
        parts.append(f"{snapshot.verdict.decision}: {'; '.join(snapshot.verdict.reasons)}".removesuffix(": "))
    if record.paused:
        parts.append(f"paused: {record.paused}")
    if snapshot.unreachable:
        parts.append("the Kubernetes API doesn't answer; trying again")
    return ", ".join(parts)


def _line(entry: Entry) -> str:
    why = f": {'; '.join(entry.reasons)}" if entry.reasons else ""
    return f"last: {entry.action} by {entry.by} at {entry.at}{why}"
