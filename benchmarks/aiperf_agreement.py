"""Whether `kserve-llamacpp bench` and aiperf find the same, in turns on one server under one load.

On one run: the bench's arithmetic on the events that aiperf recorded, beside what aiperf makes of them.
In turns: each with a load of its own, of the same shape. That shows also what the tools take from a server on
the same machine: aiperf is a dozen processes.

python -m benchmarks.aiperf_agreement URL --aiperf PATH
aiperf wants packages that don't go with ours; install it into an environment of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.measure import turns
from predictor.client.bench import Load, Report
from predictor.client.endpoint import Endpoint
from predictor.client.load import Call, Stream
from predictor.client.records import LoadResult

# Label, place in our JSON, place in aiperf's, and aiperf's unit in ours.
_FIGURES = (
    ("time to first token, mean", ("time_to_first_token", "mean"), ("time_to_first_token", "avg"), 1e-3),
    ("time to first token, p50", ("time_to_first_token", "p50"), ("time_to_first_token", "p50"), 1e-3),
    ("time to first token, p95", ("time_to_first_token", "p95"), ("time_to_first_token", "p95"), 1e-3),
    ("inter-token latency, mean", ("inter_token_latency", "mean"), ("inter_token_latency", "avg"), 1e-3),
    ("inter-token latency, p50", ("inter_token_latency", "p50"), ("inter_token_latency", "p50"), 1e-3),
    ("inter-token latency, p95", ("inter_token_latency", "p95"), ("inter_token_latency", "p95"), 1e-3),
    ("end to end, p50", ("latency", "p50"), ("request_latency", "p50"), 1e-3),
    ("end to end, p95", ("latency", "p95"), ("request_latency", "p95"), 1e-3),
    ("output tokens/s", ("output_tokens_per_second",), ("output_token_throughput", "avg"), 1),
    ("requests/s", ("requests_per_second",), ("request_throughput", "avg"), 1),
)


def main(
    url: Annotated[str, typer.Argument(help="A server that runs.")],
    aiperf: Annotated[Path, typer.Option(exists=True, help="The aiperf command.")],
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each.")] = 3,
    concurrency: Annotated[int, typer.Option(min=1)] = 4,
    requests: Annotated[int, typer.Option(min=1)] = 24,
    prompt_tokens: Annotated[int, typer.Option(min=8)] = 64,
    output_tokens: Annotated[int, typer.Option(min=1)] = 32,
) -> None:
    """Run both in turns and print each figure's median over the rounds, and the ratio."""
    endpoint = Endpoint.at(url)
    load = Load(endpoint.model(None), concurrency, None, requests, prompt_tokens=prompt_tokens)
    found: dict[int, list[Any]] = {0: [], 1: []}
    with tempfile.TemporaryDirectory() as folder:
        for round_, tool in turns(rounds, 2):
            place = Path(folder) / f"{round_}-{tool}"
            place.mkdir()
            arguments = (endpoint, load, output_tokens, 2 * round_ + tool, place)
            found[tool].append(_run_aiperf(aiperf, *arguments) if tool else _run_bench(*arguments))
    table = Table("", "aiperf", "bench, same run", "ratio", "bench, own run", "ratio")
    for label, ours, theirs, unit in _FIGURES:
        other = median(_at(figures, theirs) for figures, _ in found[1]) * unit
        same = median(_at(recount, ours) for _, recount in found[1])
        own = median(_at(figures, ours) for figures in found[0])
        cells = (other, same, same / other, own, own / other)
        table.add_row(label, *(f"{cell:.4f}" for cell in cells))
    Console().print(table)


def _at(figures: Any, place: tuple[str, ...]) -> float:
    for name in place:
        figures = figures[name]
    return float(figures)


def _run_bench(endpoint: Endpoint, load: Load, output_tokens: int, seed: int, folder: Path) -> Any:
    path = folder / "bench.json"
    options = {
        "--concurrency": load.concurrency,
        "--requests": load.requests,
        "--prompt-tokens": load.prompt_tokens,
        "--output-tokens": output_tokens,
        "--warm-up": load.concurrency,
        "--seed": seed,
        "--json": path,
    }
    arguments = [str(part) for option in options.items() for part in option]
    _call([sys.executable, "-m", "predictor.cli", "bench", endpoint.url, *arguments])
    return json.loads(path.read_text())


def _run_aiperf(
    aiperf: Path, endpoint: Endpoint, load: Load, output_tokens: int, seed: int, folder: Path
) -> Any:
    prompts = folder / "prompts.jsonl"
    calls = islice(Load(load.model, prompt_tokens=load.prompt_tokens, seed=seed).calls(endpoint), 500)
    lines = [json.dumps({"text": call.body["messages"][0]["content"]}) for call in calls]
    prompts.write_text("\n".join(lines))
    options = {
        "--model": load.model,
        "--url": endpoint.origin,
        "--endpoint-type": "chat",
        "--tokenizer": "builtin",
        "--input-file": prompts,
        "--custom-dataset-type": "single_turn",
        "--dataset-sampling-strategy": "sequential",
        "--extra-inputs": json.dumps({"ignore_eos": True, "temperature": 0, "max_tokens": output_tokens}),
        "--concurrency": load.concurrency,
        "--request-count": load.requests,
        "--warmup-request-count": load.concurrency,
        "--output-artifact-dir": folder,
        "--ui": "none",
    }
    arguments = [str(part) for option in options.items() for part in option]
    # Only as many processes as it needs: they share the machine with the server.
    arguments += ["--export-level", "raw", "--workers-max", "1", "--record-processors", "1"]
    switches = ["--streaming", "--use-server-token-count", "--no-gpu-telemetry", "--no-server-metrics"]
    _call([str(aiperf), "profile", *arguments, *switches])
    figures = json.loads((folder / "profile_export_aiperf.json").read_text())
    _recorded(folder / "profile_export_raw.jsonl", load, endpoint).save(folder / "recount.json")
    return figures, json.loads((folder / "recount.json").read_text())


def _recorded(path: Path, load: Load, endpoint: Endpoint) -> Report:
    """The bench's figures of what aiperf received and when."""
    records = []
    for line in path.read_text().splitlines():
        request = json.loads(line)
        if request["metadata"]["benchmark_phase"] != "profiling":
            continue
        metadata = request["metadata"]
        seconds = (metadata["request_end_ns"] - metadata["request_start_ns"]) / 1e9
        stream = Stream(Call("", request["payload"]), started=request["start_perf_ns"] / 1e9)
        stream.ended = stream.started + seconds
        for response in request["responses"]:
            for packet in response["packets"]:
                if packet["name"] == "data" and packet["value"] != "[DONE]":
                    stream.lines.append((response["perf_ns"] / 1e9, packet["value"].encode()))
        records.append(stream.record())
    return Report.of(load, endpoint, LoadResult(tuple(records), 0.0))


def _call(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        typer.echo((done.stdout + done.stderr)[-3000:], err=True)
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
