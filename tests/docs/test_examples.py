"""Every example of the pages runs as it stands and answers in the form that is shown below it.

Blocks in bash and python talk to the server and are each followed by their output, in json or text; blocks in
sh are set-up commands and are not run here, yaml is compared with the manifests.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from server_process import Server

from predictor import cli
from rollout.cli import app as rollout_app

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
PROTOCOLS = ROOT / "docs" / "protocols.md"
STRUCTURED = ROOT / "docs" / "structured-output.md"
EXAMPLE_PAGES = (README, PROTOCOLS, STRUCTURED)
PAGES = (README, PROTOCOLS, ROOT / "docs" / "guarantees.md", ROOT / "docs" / "models.md")
NAME = "SmolLM2-135M-Instruct.Q4_0"
COMMANDS = {"bash": ("bash", "-euo", "pipefail", "-c"), "python": (sys.executable, "-c")}
OUTPUTS = ("json", "text")
NOT_RUN = ("sh", "yaml")
# Options that are not the server's.
OTHERS = {"--extra-index-url", "--help", "--kustomize", "--strict"}
# The only words of a model's answer that must come back.
KNOWN = re.compile(r"Paris|Tokyo|Rome")


@dataclass(frozen=True)
class Example:
    """Code, and what its page says that it prints."""

    page: str
    line: int
    language: str
    code: str
    output_language: str
    output: str


def read_blocks(page: Path) -> list[tuple[int, str, str]]:
    """Line, language and content of every fenced block."""
    text = page.read_text()
    found = re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S)
    return [(text.count("\n", 0, block.start()) + 1, block[1], block[2]) for block in found]


def read_examples(page: Path) -> list[Example]:
    blocks = read_blocks(page)
    return [
        Example(page.name, line, language, code, *following[1:])
        for (line, language, code), following in zip(blocks, [*blocks[1:], (0, "", "")], strict=True)
        if language in COMMANDS
    ]


EXAMPLES = [example for page in EXAMPLE_PAGES for example in read_examples(page)]


def run(example: Example, server: Server, folder: Path) -> str:
    """The example's output against `server`, with the page's model name put back."""
    code = example.code.replace("http://localhost:8080", server.http_url)
    code = code.replace("localhost:8080", server.http_url.removeprefix("http://"))
    code = code.replace("localhost:8081", server.grpc_url).replace(NAME, server.model_name)
    done = subprocess.run(
        [*COMMANDS[example.language], code], cwd=folder, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def form(value: Any) -> Any:
    """Names and types of a JSON value, without its contents."""
    match value:
        case dict():
            return {name: form(inner) for name, inner in value.items()}
        case list():
            return [form(inner) for inner in value]
        case bool() | None | str():
            return type(value).__name__
        case _:
            return "number"


def event_forms(lines: list[str]) -> list[Any]:
    """The form of each server-sent event; `[DONE]` and `...` stay as they are."""
    events = [line.removeprefix("data: ") for line in lines if line]
    return [form(json.loads(event)) if event.startswith("{") else event for event in events]


def assert_same_form(actual: str, shown: str) -> None:
    if shown.startswith("{"):
        assert form(json.loads(actual)) == form(json.loads(shown))
    elif shown.startswith(("data: ", "event: ")):
        real, expected = event_forms(actual.splitlines()), event_forms(shown.splitlines())
        cut = expected.index("...")
        assert real[:cut] == expected[:cut]
        assert real[cut + 1 - len(expected) :] == expected[cut + 1 :]
    else:
        assert len(actual.splitlines()) == len(shown.splitlines()), actual
        assert all(line.strip() for line in actual.splitlines())
    assert KNOWN.findall(shown) == KNOWN.findall(actual)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda e: f"{e.page}-line{e.line}-{e.language}")
def test_an_example_prints_what_is_shown(example: Example, server: Server, tmp_path: Path) -> None:
    assert example.output_language in OUTPUTS, "an example must be followed by its output"
    assert_same_form(run(example, server, tmp_path), example.output)


def test_every_protocol_has_an_example_in_each_language() -> None:
    everything = {
        language: " ".join(e.code for e in read_examples(PROTOCOLS) if e.language == language)
        for language in COMMANDS
    }
    paths = ("/v1/models/", "/v2/models/", "/generate", "/generate_stream", "/predict")
    assert [
        path for path in (*paths, "/chat/completions", "/completions") if path not in everything["bash"]
    ] == []
    clients = ("openai", ":predict", "tritonclient.http", "tritonclient.grpc", "/generate_stream", "/predict")
    assert [client for client in clients if client not in everything["python"]] == []


@pytest.mark.parametrize("page", EXAMPLE_PAGES, ids=lambda page: page.name)
def test_no_block_escapes_the_check(page: Path) -> None:
    assert {language for _, language, _ in read_blocks(page)} <= {*NOT_RUN, *COMMANDS, *OUTPUTS}


def part_of(shown: Any, whole: Any) -> bool:
    """Whether everything in `shown` stands in `whole` too."""
    if isinstance(shown, dict):
        return all(name in whole and part_of(inner, whole[name]) for name, inner in shown.items())
    return bool(shown == whole)


def test_the_inference_service_shown_is_the_manifest_in_short() -> None:
    [shown] = [yaml.safe_load(code) for _, language, code in read_blocks(README) if language == "yaml"]
    manifest = yaml.safe_load((ROOT / "manifests" / "base" / "inference-service.yaml").read_text())
    assert shown["kind"] == "InferenceService"
    assert part_of(shown, manifest)


def test_the_readme_stays_short() -> None:
    assert len(README.read_text().splitlines()) <= 150


def options_of(command: Any) -> Iterator[str]:
    """The flags of a command and of those under it."""
    for parameter in command.params:
        yield from (*parameter.opts, *parameter.secondary_opts)
    for inner in getattr(command, "commands", {}).values():
        yield from options_of(inner)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_option_named_exists(page: Path) -> None:
    known = OTHERS.union(*(options_of(typer.main.get_command(app)) for app in (cli.app, rollout_app)))
    named = {option.replace("_", "-") for option in re.findall(r"(?<![\w-])--[a-z][\w-]+", page.read_text())}
    assert named
    assert named - known == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_and_test_named_exists(page: Path) -> None:
    text = page.read_text()
    files = re.findall(r"(?:predictor|tests|docs|scripts|benchmarks)/[\w/-]*(?:\.\w+)?", text)
    assert [name for name in files if not (ROOT / name).exists() and name != "docs/benchmarks.md"] == []


def test_every_make_target_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = set(re.findall(r"^make ([a-z-]+)|`make ([a-z-]+)", README.read_text(), re.M))
    assert {first or second for first, second in named} - targets == set()
