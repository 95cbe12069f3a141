"""`kserve-llamacpp chat` and `kserve-llamacpp bench`.

Only typer is imported here: the command line is read before every start of a server too.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from predictor.errors import PredictorError

EXIT_FAILURE = 1
EXIT_INTERRUPTED = 130

Url = Annotated[
    str,
    typer.Argument(
        metavar="URL", help="The server, such as http://localhost:8080, or an OpenAI API that ends with /v1."
    ),
]
Model = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Model to ask.", show_default="the first that the server lists"),
]
# The key is not shown in help and error texts, and best not given as an option: other users can see those.
ApiKey = Annotated[
    str | None,
    typer.Option(
        envvar="LLAMACPP_API_KEY", metavar="KEY", help="API key; better in the variable.", show_default=False
    ),
]
System = Annotated[str | None, typer.Option(metavar="TEXT", help="System prompt.")]
Temperature = Annotated[
    float | None, typer.Option(min=0, help="0 always takes the likeliest token.", show_default="server's")
]
MaxTokens = Annotated[int, typer.Option(min=1, metavar="TOKENS", help="Most tokens per answer.")]


def chat(
    url: Url,
    model: Model = None,
    system: System = None,
    temperature: Temperature = None,
    max_tokens: MaxTokens = 512,
    api_key: ApiKey = None,
) -> None:
    """Talk to a model in the terminal. What is piped in is one message, and only its answer is printed."""
    from predictor.client.conversation import Conversation
    from predictor.client.terminal_chat import run

    try:
        conversation = Conversation.at(url, api_key, model, system, temperature, max_tokens)
        raise typer.Exit(run(conversation))
    except PredictorError as error:
        fail(error.message)


def run(
    context: typer.Context,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model to run, as for serve.")],
    system: System = None,
    temperature: Temperature = None,
    max_tokens: MaxTokens = 512,
) -> None:
    """Talk to MODEL in the terminal, with a server of its own behind it. Other options are those of serve."""
    from predictor.client.local_server import local_server

    try:
        with local_server(model, context.args) as url:
            chat(url, None, system, temperature, max_tokens, None)
    except PredictorError as error:
        fail(error.message)
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_INTERRUPTED) from None


def bench(
    url: Url,
    model: Model = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests under way at once.")] = 8,
    request_rate: Annotated[
        float | None,
        typer.Option(min=0.001, metavar="PER SECOND", help="Arrivals at random, at this mean rate instead."),
    ] = None,
    requests: Annotated[
        int | None, typer.Option(min=1, help="Requests to send.", show_default="64, without --duration")
    ] = None,
    duration: Annotated[
        float | None,
        typer.Option(min=0.1, metavar="SECONDS", help="Send for so long, then wait for the last answers."),
    ] = None,
    prompt_tokens: Annotated[
        int, typer.Option(min=8, metavar="TOKENS", help="Length of each prompt, about; no two are alike.")
    ] = 128,
    output_tokens: Annotated[int, typer.Option(min=1, metavar="TOKENS", help="Length of each answer.")] = 64,
    stream: Annotated[bool, typer.Option(help="Have answers streamed.")] = True,
    ignore_eos: Annotated[
        bool,
        typer.Option(help="Ask for answers of full length; servers that refuse the field need --no-..."),
    ] = True,
    warm_up: Annotated[
        int, typer.Option(min=0, metavar="REQUESTS", help="Requests before, that don't count.")
    ] = 2,
    seed: Annotated[int, typer.Option(help="Of prompts and arrivals.")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", dir_okay=False, help="Write figures.")] = None,
    plot: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Draw the latencies, as .svg, .png or .pdf.")
    ] = None,
    api_key: ApiKey = None,
) -> None:
    """Put a load on any OpenAI-compatible server and show latencies and throughput."""
    import asyncio

    from rich.console import Console

    from predictor.client.bench import Load, run
    from predictor.client.bench_output import LoadProgress, check_plot, plot_title, tables, write_plot
    from predictor.client.endpoint import Endpoint

    try:
        if plot is not None:
            check_plot(plot)
        endpoint = Endpoint.at(url, api_key)
        load = Load(
            model=endpoint.model(model),
            concurrency=concurrency,
            request_rate=request_rate,
            requests=requests if duration is not None else requests or 64,
            seconds=math.inf if duration is None else duration,
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
            stream=stream,
            exact=ignore_eos,
            seed=seed,
        )
        with LoadProgress(Console(stderr=True), load.requests) as progress:
            report, result = asyncio.run(run(load, endpoint, warm_up, progress.ended))
        for table in tables(report):
            Console().print(table)
        for error, times in report.errors.items():
            typer.secho(f"{times} x {error}", fg=typer.colors.RED, err=True)
        if json_file is not None:
            report.save(json_file)
        if plot is not None:
            write_plot(result, plot, plot_title(load, report))
    except PredictorError as error:
        fail(error.message)
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}")
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_INTERRUPTED) from None
    if not report.completed:
        raise typer.Exit(EXIT_FAILURE)


def fail(message: str) -> NoReturn:
    """End the command with a message for people, in red on a terminal."""
    typer.secho(f"error: {message}", fg=typer.colors.RED, err=True)
    raise typer.Exit(EXIT_FAILURE)
