"""`kserve-llamacpp rollout`."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from predictor.errors import PredictorError
from predictor.help import Command, Group
from rollout.cluster import Cluster
from rollout.display import Progress, figures, history, screen
from rollout.judging import Judging
from rollout.plan import Plan, parse_duration, parse_steps
from rollout.result import Outcome, Result, Snapshot
from rollout.rollout import Rollout

EXIT_FAILURE = 1
EXIT_ROLLED_BACK = 3
EXIT_PAUSED = 4
EXIT_INTERRUPTED = 130
_WATCH_S = 2.0
_EXITS = {Outcome.ROLLED_BACK: EXIT_ROLLED_BACK, Outcome.PAUSED: EXIT_PAUSED}

app = typer.Typer(
    cls=Group,
    name="rollout",
    help="Roll a model out step by step: a canary that is judged at every step, promoted or rolled back.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The InferenceService.", show_default=False)]
Namespace = Annotated[
    str | None,
    typer.Option("--namespace", "-n", metavar="NAME", help="Its namespace.", show_default="the context's"),
]
Context = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Context of the kubeconfig.", show_default="the current one"),
]

_JUDGING = "How the canary is judged"
_DEFAULTS = Judging()


def _limit(figure: str, absolute: str) -> Any:
    text = f"Limit for the canary's {figure}: {absolute}, relative as in the default, or off."
    return typer.Option(metavar="LIMIT", help=text, rich_help_panel=_JUDGING)


@app.command(cls=Command)
def start(
    given: typer.Context,
    name: Name,
    model: Annotated[
        str | None,
        typer.Option(metavar="REF", help="The new model, such as hf://OWNER/REPO.", show_default=False),
    ] = None,
    steps: Annotated[
        str, typer.Option(metavar="LIST", help="The canary's traffic, in percent.")
    ] = "5,25,50,100",
    interval: Annotated[str, typer.Option(metavar="TIME", help="How long a step lasts at least.")] = "2m",
    ready_timeout: Annotated[
        str, typer.Option(metavar="TIME", help="Roll back if the canary isn't ready by then.")
    ] = "30m",
    verdict_timeout: Annotated[
        str, typer.Option(metavar="TIME", help="Pause if a step has no verdict by then.")
    ] = "1h",
    metrics: Annotated[
        str,
        typer.Option(
            metavar="SOURCE", help="pods, a Prometheus server's URL, or none.", rich_help_panel=_JUDGING
        ),
    ] = _DEFAULTS.metrics,
    error_rate: Annotated[str, _limit("error rate", "2%")] = _DEFAULTS.error_rate,
    first_token: Annotated[str, _limit("p95 time to first token", "300ms")] = _DEFAULTS.first_token,
    inter_token: Annotated[str, _limit("p95 inter-token latency", "50ms")] = _DEFAULTS.inter_token,
    queue: Annotated[str, _limit("p95 time in the queue", "1s")] = _DEFAULTS.queue,
    deaths: Annotated[str, _limit("deaths of processes", "1/h")] = _DEFAULTS.deaths,
    golden: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Prompts (JSONL) whose answers are compared; with --resume, where they are here.",
            show_default="no comparison",
            rich_help_panel=_JUDGING,
        ),
    ] = None,
    logprob_drop: Annotated[
        float,
        typer.Option(
            metavar="NATS",
            help="How much less likely, per token, the stable model may find the answers.",
            rich_help_panel=_JUDGING,
        ),
    ] = _DEFAULTS.logprob_drop,
    agreement: Annotated[
        float,
        typer.Option(
            min=0, max=1, metavar="SHARE", help="Least share of same answers.", rich_help_panel=_JUDGING
        ),
    ] = _DEFAULTS.agreement,
    reports: Annotated[
        str, typer.Option(metavar="FOLDER", help="Where the comparison is written.", rich_help_panel=_JUDGING)
    ] = _DEFAULTS.reports,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on with a rollout that stands; its own steps, times and limits hold."
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the first patch and the change; change nothing.")
    ] = False,
    namespace: Namespace = None,
    context: Context = None,
) -> None:
    """Roll MODEL out and wait for the end.

    Exit status: 0 promoted, 3 rolled back, 4 paused, 130 interrupted (go on with --resume), 1 anything else.
    """
    with _errors(name):
        if resume == bool(model):
            _fail("give --model to start a rollout, or --resume to go on with one")
        times = {
            "interval_s": interval,
            "ready_timeout_s": ready_timeout,
            "verdict_timeout_s": verdict_timeout,
        }
        plan = Plan(parse_steps(steps), **{key: parse_duration(text) for key, text in times.items()})
        judging = Judging(
            metrics=metrics,
            error_rate=error_rate,
            first_token=first_token,
            inter_token=inter_token,
            queue=queue,
            deaths=deaths,
            golden=golden,
            logprob_drop=logprob_drop,
            agreement=agreement,
            reports=reports,
        )
        if dry_run:
            _print_preview(_rollout(name, namespace, context), model, plan, judging)
        elif resume:
            source = given.get_parameter_source("reports")
            here = None if source is None or source.name == "DEFAULT" else reports
            _wait(name, namespace, context, lambda rollout: rollout.resume(golden=golden, reports=here))
        else:
            for notice in judging.notices(plan):
                typer.secho(f"note: {notice}", fg=typer.colors.YELLOW, err=True)
            _wait(name, namespace, context, lambda rollout: rollout.start(str(model), plan, judging))


@app.command(cls=Command)
def status(
    name: Name,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Go on showing it until the rollout ends.")
    ] = False,
    namespace: Namespace = None,
    context: Context = None,
) -> None:
    """Show where a rollout is: traffic, readiness, why it stands."""
    with _errors():
        rollout = _rollout(name, namespace, context)
        snapshot = rollout.status()
        if watch:
            with Progress(_console()) as progress:
                while snapshot.record and snapshot.record.phase.active:
                    progress.show(snapshot)
                    time.sleep(_WATCH_S)
                    snapshot = rollout.status()
        _show(snapshot)


@app.command(cls=Command)
def step(name: Name, namespace: Namespace = None, context: Context = None) -> None:
    """Go to the next step now, without a verdict; after the last one, promote."""
    with _errors(name):
        _show(_rollout(name, namespace, context).step())


@app.command(cls=Command)
def pause(
    name: Name,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why, for the history.")] = "by hand",
    namespace: Namespace = None,
    context: Context = None,
) -> None:
    """Keep the traffic as it is until somebody goes on."""
    with _errors(name):
        _show(_rollout(name, namespace, context).pause(reason))


@app.command(cls=Command)
def promote(name: Name, namespace: Namespace = None, context: Context = None) -> None:
    """Make the canary the stable version now, without further steps or verdicts."""
    with _errors(name):
        _wait(name, namespace, context, Rollout.promote)


@app.command(cls=Command)
def rollback(
    name: Name,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why, for the history.")] = "by hand",
    leave: Annotated[
        bool, typer.Option("--leave", help="End the rollout and leave the service exactly as it is now.")
    ] = False,
    namespace: Namespace = None,
    context: Context = None,
) -> None:
    """Take the traffic away from the canary and remove it. Can be repeated."""
    with _errors(name):
        _wait(name, namespace, context, lambda rollout: rollout.rollback(reason, leave=leave), wanted=True)


@app.command(cls=Command, name="history")
def show_history(name: Name, namespace: Namespace = None, context: Context = None) -> None:
    """Show what was done to a service's rollouts, when and by whom."""
    with _errors():
        entries = _rollout(name, namespace, context).history()
        _console().print(history(entries) if entries else f"{name} has had no rollout yet", soft_wrap=True)


@app.command(cls=Command)
def diff(
    name: Name,
    model: Annotated[
        str | None, typer.Option(metavar="REF", help="A model to compare with.", show_default="the canary")
    ] = None,
    namespace: Namespace = None,
    context: Context = None,
) -> None:
    """Show how the canary's predictor differs from the stable one."""
    with _errors():
        typer.echo(_rollout(name, namespace, context).diff(model))


def _rollout(
    name: str,
    namespace: str | None,
    context: str | None,
    on_progress: Callable[[Snapshot], None] | None = None,
) -> Rollout:
    return Rollout(name, Cluster.connect(namespace, context), on_progress=on_progress)


def _wait(
    name: str,
    namespace: str | None,
    context: str | None,
    command: Callable[[Rollout], Result],
    *,
    wanted: bool = False,
) -> None:
    """Run a command that waits, show its progress, and end with its outcome."""
    with Progress(_console()) as progress:
        result = command(_rollout(name, namespace, context, progress.show))
    if result.verdict and result.verdict.figures:
        _console().print(figures(result.verdict), soft_wrap=True)
    _console().print(_sentence(name, result), soft_wrap=True, highlight=False)
    status = 0 if wanted and result.outcome is Outcome.ROLLED_BACK else _EXITS.get(result.outcome, 0)
    raise typer.Exit(status)


def _sentence(name: str, result: Result) -> str:
    text = f"{name}: {result.model} {result.outcome}"
    if result.outcome in (Outcome.PAUSED, Outcome.LEFT):
        text += f" at {result.percent}%"
    if result.reasons:
        text += f": {'; '.join(result.reasons)}"
    if result.outcome is Outcome.PAUSED:
        text += f"\nGo on with: rollout start {name} --resume, rollout step, promote or rollback {name}"
    return text


def _interrupted(name: str) -> None:
    typer.echo(
        f"\nStopped. The rollout of {name} stands where it is, and its traffic stays as it is.\n"
        f"Go on:     kserve-llamacpp rollout start {name} --resume\n"
        f"Give up:   kserve-llamacpp rollout rollback {name}\n"
        f"Look:      kserve-llamacpp rollout status {name}",
        err=True,
    )


def _print_preview(rollout: Rollout, model: str | None, plan: Plan, judging: Judging) -> None:
    if model is None:
        _fail("--dry-run shows the start of a rollout: give --model")
    preview = rollout.preview(model, plan, judging)
    typer.echo(json.dumps(preview.patch, indent=2))
    typer.echo(preview.diff, err=True)
    for right in preview.missing:
        typer.echo(f"missing right: {right}", err=True)


def _show(snapshot: Snapshot) -> None:
    _console().print(screen(snapshot), soft_wrap=True)


def _console() -> Console:
    return Console()


@contextmanager
def _errors(moved: str = "") -> Iterator[None]:
    """Errors as messages; SIGTERM, as a pipeline sends it, is taken like Ctrl-C.

    Args:
        moved: the service whose rollout the command moves, for which an interrupt says how to go on.
    """

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    except PredictorError as error:
        _fail(error.message)
    except KeyboardInterrupt:
        if moved:
            _interrupted(moved)
        raise typer.Exit(EXIT_INTERRUPTED) from None


def _fail(message: str) -> NoReturn:
    typer.secho(f"error: {message}", fg=typer.colors.RED, err=True)
    raise typer.Exit(EXIT_FAILURE)
