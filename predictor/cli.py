"""The command `kserve-llamacpp`. Options of `serve` are fields of `predictor.settings`: add one there."""

from __future__ import annotations

from inspect import Parameter, Signature
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from pydantic import ValidationError

from predictor import __version__
from predictor.client.commands import bench, chat, run
from predictor.documentation import page
from predictor.errors import PredictorError, StartupError
from predictor.help import Command, Group
from predictor.settings import Settings, env_var, explain, flag, shown

EXIT_FAILURE = 1
EXIT_USAGE = 2

# KServe's manifests spell options with underscores, so `--model_name` means `--model-name`.
_EITHER_SPELLING = {"token_normalize_func": lambda token: token.replace("_", "-")}

Option = str | bool | list[str] | None
_REPEATABLE = {"lora", "model_name"}

app = typer.Typer(
    name="kserve-llamacpp",
    cls=Group,
    help="Serve GGUF language models through KServe, with llama.cpp.",
    epilog=f"Documentation: {page('index')}",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings=_EITHER_SPELLING,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"kserve-llamacpp {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def serve(**options: Option) -> None:
    """Serve MODEL over HTTP (KServe V1, V2, OpenAI) and gRPC (V2).

    Every option can be given by its environment variable as well; the flag wins.
    """
    settings = _settings(**options)
    try:
        status = _run(settings)
    except PredictorError as error:
        _fail(error.message, EXIT_FAILURE)
    raise typer.Exit(status)


def _run(settings: Settings) -> int:
    if settings.platform == "kserve":
        from predictor.serving.server import run

        return run(settings)
    try:
        from runtimes.ray_serve.command import run as run_on_ray
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise StartupError("--platform ray needs Ray: pip install 'kserve-llamacpp[ray]'") from None
    return run_on_ray(settings)


def _settings(model: Option, model_dir: Option, **options: Option) -> Settings:
    """The command line as settings; a mistake in it ends the command."""
    if model and model_dir:
        _fail("give the model as MODEL or as --model-dir, not both", EXIT_USAGE)
    given: dict[str, Any] = {"model": model or model_dir, **options}
    try:
        return Settings(**{name: value for name, value in given.items() if value not in (None, [], ())})
    except ValidationError as error:
        _fail(explain(error), EXIT_USAGE)


def _option(field: str) -> Parameter:
    """The typer parameter of one field: text in, since `Settings` does the checking."""
    info, display = Settings.model_fields[field], shown(field)
    is_switch = info.annotation is bool
    names = f"{flag(field)}/--no-{flag(field).removeprefix('--')}" if is_switch else flag(field)
    option = typer.Option(
        names,
        help=info.description,
        envvar=env_var(field),
        metavar=display.unit if "|" in display.unit else display.unit.upper() or None,
        show_default=display.default or True,
        rich_help_panel=display.group,
    )
    default = info.default if is_switch or info.default is None else str(info.default)
    kind: Any = bool if is_switch else list[str] | None if field in _REPEATABLE else str | None
    annotation: Any = Annotated[kind, option]
    return Parameter(field, Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _serve_parameters() -> list[Parameter]:
    """MODEL, its alias --model-dir, and one option per other field."""
    # Its environment variable is left to Settings, so that --model-dir wins over it like any flag.
    description = rf"{Settings.model_fields['model'].description} \[env var: {env_var('model')}]"
    model = typer.Argument(metavar="MODEL", help=description, show_default=False)
    model_dir = typer.Option(
        "--model-dir",
        metavar="FOLDER",
        help="The same as MODEL; KServe mounts it at /mnt/models.",
        rich_help_panel=shown("model").group,
    )
    return [
        Parameter("model", Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[str | None, model]),
        Parameter(
            "model_dir", Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[str | None, model_dir]
        ),
        *(_option(field) for field in Settings.model_fields if field != "model"),
    ]


def _with_parameters(function: Any, parameters: list[Parameter]) -> Any:
    """`function`, presented to typer as if it had been written with `parameters`."""
    function.__signature__ = Signature(parameters)
    function.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return function


app.command(cls=Command, context_settings=_EITHER_SPELLING)(_with_parameters(serve, _serve_parameters()))

app.command(
    cls=Command,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, **_EITHER_SPELLING},
)(run)
app.command(cls=Command)(chat)
app.command(cls=Command)(bench)


@app.command(cls=Command)
def doctor(
    cluster: Annotated[
        bool, typer.Option("--cluster", help="Look at a cluster with KServe instead.")
    ] = False,
    context: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The kubeconfig's context.", show_default="the current one"),
    ] = None,
) -> None:
    """Say what of this machine or of a cluster will hurt, and what to do; status 1 where something fails."""
    from predictor.doctor.command import run_doctor

    try:
        if not run_doctor(cluster, context):
            raise typer.Exit(EXIT_FAILURE)
    except StartupError as error:
        _fail(error.message, EXIT_FAILURE)


models = typer.Typer(cls=Group, help="Look at model files and convert them.", no_args_is_help=True)
app.add_typer(models, name="models")


@models.command(cls=Command)
def inspect(
    reference: Annotated[str, typer.Argument(help="A model, as for serve.", metavar="MODEL")],
    model_file: Annotated[
        str | None, typer.Option(help=Settings.model_fields["model_file"].description, metavar="NAME")
    ] = None,
) -> None:
    """Show what a GGUF model says about itself, without loading it."""
    from predictor.models.gguf_split import read_parts
    from predictor.models.storage import resolve_model

    try:
        parts = read_parts(resolve_model(reference, model_file=model_file))
    except StartupError as error:
        _fail(error.message, EXIT_FAILURE)
    first = parts[0]
    rows = {
        "file": str(first.path) + (f" and {len(parts) - 1} more" if len(parts) > 1 else ""),
        "architecture": first.architecture or "unknown",
        "quantisation": first.quantisation,
        "size": f"{sum(part.path.stat().st_size for part in parts) / 2**20:,.1f} MiB",
        "context": f"{first.context_length} tokens" if first.context_length else "unknown",
        **_chat_rows(first.metadata.get("tokenizer.chat_template")),
    }
    for name, value in rows.items():
        typer.echo(f"{name:<14} {value}")


def _chat_rows(source: object) -> dict[str, str]:
    """What is learnt from a chat template."""
    from predictor.chat.format import ChatFormat
    from predictor.chat.template import ChatTemplate

    if not isinstance(source, str) or not source:
        return {"chat template": "no; needs --chat-template"}
    try:
        learnt = ChatFormat(ChatTemplate(source, "", ""))
    except StartupError as error:
        return {"chat template": error.message}
    rows = {"tools": learnt.describe_calls(), "thoughts": learnt.describe_thoughts()}
    return {"chat template": "yes", **rows, "roles": learnt.describe_roles()}


@models.command(cls=Command)
def convert(
    reference: Annotated[str, typer.Argument(help="A model, as for serve.", metavar="MODEL")],
    target: Annotated[
        Path | None,
        typer.Argument(
            help="File to write, which must not exist.", metavar="OUT", show_default="MODEL-FORMAT.gguf"
        ),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(
            help="Format to convert to.",
            metavar="FORMAT",
            show_default="the fastest on this CPU of about the same size",
        ),
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option(
            help="Text to measure the perplexity on, in UTF-8.",
            metavar="FILE",
            show_default="a part of Newton's Opticks",
        ),
    ] = None,
    model_file: Annotated[
        str | None, typer.Option(help=Settings.model_fields["model_file"].description, metavar="NAME")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Convert without asking.")] = False,
) -> None:
    """Write a model in another number format, with llama.cpp's quantiser.

    Measures speed and perplexity before and after. A model that is quantised already loses quality.
    """
    from predictor.formats.command import ConvertOptions, run_convert

    try:
        run_convert(ConvertOptions(reference, model_file, target, to, text, yes))
    except PredictorError as error:
        _fail(error.message, EXIT_FAILURE)


@app.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
    help="Roll models out step by step on Kubernetes (extra: rollout).",
)
def rollout(context: typer.Context) -> None:
    """Hand over to `rollout.cli`, which is imported only here: serving needs none of it."""
    from importlib.util import find_spec

    if find_spec("kubernetes") is None:
        _fail("rollouts need an extra: pip install 'kserve-llamacpp[rollout]'", EXIT_FAILURE)
    from rollout.cli import app as rollout_app

    rollout_app(args=context.args, prog_name="kserve-llamacpp rollout")


def _fail(message: str, status: int) -> NoReturn:
    """End the command with a message for people, in red on a terminal."""
    typer.secho(f"error: {message}", fg=typer.colors.RED, err=True)
    raise typer.Exit(status)


def main() -> None:
    """Entry point of the `kserve-llamacpp` command."""
    app()


if __name__ == "__main__":
    main()
