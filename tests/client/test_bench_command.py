"""`kserve-llamacpp bench` as a user runs it, against a server with known delays."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from fake_openai import BETWEEN_SECONDS, FIRST_TOKEN_SECONDS, FakeServer

TOKENS = 12
EVENTS = TOKENS // 2
# Of the fake server: an event holds two tokens.
LATENCY = FIRST_TOKEN_SECONDS + (EVENTS - 1) * BETWEEN_SECONDS
SLACK = 0.1


async def bench(url: str, *arguments: str, **environment: str) -> tuple[int, str, str]:
    """Exit status, standard output and standard error."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "predictor.cli", "bench", url, *arguments),
        env={**os.environ, "COLUMNS": "120", "NO_COLOR": "1", **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await asyncio.wait_for(process.communicate(), 120)
    return process.returncode or 0, output.decode(), errors.decode()


def just_above(value: float, expected: float) -> bool:
    """A busy machine delays timers, and never hastens them by more than their resolution."""
    return expected - 0.005 <= value < expected + SLACK


async def test_the_figures_are_the_servers_delays(fake: FakeServer, tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    options = ["--requests", "6", "--concurrency", "2", "--output-tokens", str(TOKENS), "--warm-up", "1"]
    status, output, errors = await bench(fake.url, *options, "--json", str(path))
    assert status == 0, errors
    figures: dict[str, Any] = json.loads(path.read_text())
    assert (figures["completed"], figures["errors"]) == (6, {})
    assert (figures["prompt_tokens"], figures["completion_tokens"]) == (6 * 11, 6 * TOKENS)
    assert just_above(figures["time_to_first_token"]["p50"], FIRST_TOKEN_SECONDS)
    assert just_above(figures["gap"]["p50"], BETWEEN_SECONDS)
    assert just_above(figures["inter_token_latency"]["p50"], (EVENTS - 1) * BETWEEN_SECONDS / (TOKENS - 1))
    assert just_above(figures["latency"]["p50"], LATENCY)
    # Six requests on two clients are three waves.
    assert just_above(figures["seconds"] / 3, LATENCY)
    assert figures["output_tokens_per_second"] == pytest.approx(6 * TOKENS / figures["seconds"])
    assert figures["requests_per_second"] == pytest.approx(6 / figures["seconds"])
    assert figures["load"]["model"] == "fake"
    assert f"{figures['latency']['p95'] * 1000:,.1f}" in output
    assert fake.most_running == 2
    assert len(fake.bodies) == 7
    assert len({body["messages"][0]["content"] for body in fake.bodies}) == 7
    assert all(body["ignore_eos"] and body["max_tokens"] == TOKENS for body in fake.bodies)


async def test_the_plot_is_an_image_with_a_panel_per_latency(fake: FakeServer, tmp_path: Path) -> None:
    path = tmp_path / "plot.svg"
    status, _, errors = await bench(fake.url, "--requests", "2", "--plot", str(path))
    assert status == 0, errors
    image = path.read_text()
    assert image.count('id="axes_') == 3
    # matplotlib draws letters as paths, and writes each text beside them as a comment.
    shown = re.findall(r"<!-- (.*?) -->", image)
    assert any(text.startswith("fake: 2 requests, 8 at once, about 128 prompt tokens") for text in shown)
    assert image.count('id="legend_') == 3
    assert sum(bool(re.fullmatch(r"p(50|95|99) [\d,]+ ms", text)) for text in shown) == 9


async def test_a_kind_of_plot_that_nobody_draws_is_refused_before_the_load(fake: FakeServer) -> None:
    status, _, errors = await bench(fake.url, "--plot", "plot.docx")
    assert status == 1
    assert ".svg, .png or .pdf" in errors
    assert fake.bodies == []


async def test_a_rate_and_a_duration(fake: FakeServer, tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    options = ["--request-rate", "40", "--duration", "0.5", "--no-stream", "--json", str(path)]
    status, output, errors = await bench(fake.url, *options)
    assert status == 0, errors
    figures = json.loads(path.read_text())
    assert 5 < figures["completed"] < 50
    assert figures["time_to_first_token"] is None
    assert "time to first token" not in output
    assert just_above(figures["latency"]["p50"], FIRST_TOKEN_SECONDS)
    assert fake.most_running > 3


async def test_failures_are_counted_apart(fake: FakeServer, tmp_path: Path) -> None:
    fake.fail_every = 3
    path = tmp_path / "figures.json"
    status, output, errors = await bench(fake.url, "--requests", "6", "--warm-up", "0", "--json", str(path))
    assert status == 0
    figures = json.loads(path.read_text())
    assert figures["completed"] == 4
    assert list(figures["errors"].values()) == [2]
    assert "2 x HTTP 503" in errors
    assert "requests failed" in output


async def test_a_server_that_refuses_everything_is_an_error(fake: FakeServer) -> None:
    fake.fail_every = 1
    status, _, errors = await bench(fake.url)
    assert status == 1
    assert "the warm-up failed: HTTP 503" in errors
    status, _, errors = await bench(fake.url, "--warm-up", "0", "--requests", "2")
    assert status == 1
    assert "2 x HTTP 503" in errors


@pytest.mark.parametrize(
    ("url", "arguments", "message"),
    [
        ("http://127.0.0.1:9", [], "http://127.0.0.1:9/v1 can't be reached"),
        ("ftp://example", [], "'ftp://example' is no address of a server"),
        ("http://host:port", [], "is no address of a server"),
    ],
)
async def test_no_server_there(url: str, arguments: list[str], message: str) -> None:
    status, _, errors = await bench(url, *arguments)
    assert status == 1
    assert message in errors
    assert "Traceback" not in errors


async def test_a_model_that_is_not_served(fake: FakeServer) -> None:
    status, _, errors = await bench(fake.url, "--model", "missing")
    assert status == 1
    assert "does not serve 'missing'; it serves fake, other" in errors


async def test_the_key_comes_from_the_environment(fake: FakeServer) -> None:
    fake.api_key = "right"
    for key, expected in (("right", 0), ("wrong", 1)):
        status, _, errors = await bench(f"{fake.url}/v1", "--requests", "1", LLAMACPP_API_KEY=key)
        assert status == expected
    assert "401: no such key; give the key in LLAMACPP_API_KEY" in errors
    assert fake.headers[0]["authorization"] == "Bearer right"


def test_the_commands_cost_the_server_no_imports() -> None:
    import subprocess

    code = "import sys, predictor.cli; print([m for m in ('aiohttp', 'httpx', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
