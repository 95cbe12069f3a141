"""llama-server's flags are found in the run that they are for; tried on a program that is fast with some."""

from __future__ import annotations

import sys
from pathlib import Path

import aiohttp
import pytest

from benchmarks.measure import Outcome
from benchmarks.results import Trial
from benchmarks.scenarios import ServingScenario, Tuning
from benchmarks.servers import LlamaServer, RunningServer, Setup
from benchmarks.tuning import tune
from predictor.client.load import LoadGenerator

PROGRAM = f"""#!{sys.executable}
import http.server, sys

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"2.5" if "-b" in sys.argv else b"14")

if "--unknown" in sys.argv:
    sys.exit("no such flag")
port = int(sys.argv[sys.argv.index("--port") + 1])
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


async def ask(server: RunningServer, generator: LoadGenerator, point: str, round_: int) -> Outcome:
    async with aiohttp.ClientSession() as session, session.get(server.base_url) as answer:
        return Outcome({"seconds": float(await answer.text())})


def scenario(*variants: str, more_is_better: bool = False) -> ServingScenario:
    tuning = Tuning(variants, "a point", "seconds", more_is_better)
    return ServingScenario("some", "Some", "", (), Setup(1, 512), [["a point"]], ask, tuning=tuning)


@pytest.mark.parametrize(("more_is_better", "taken"), [(False, "-b 64"), (True, "")])
async def test_the_best_flags_are_taken_and_all_are_told(
    tmp_path: Path, more_is_better: bool, taken: str
) -> None:
    binary = tmp_path / "llama-server"
    binary.write_text(PROGRAM)
    binary.chmod(0o755)
    told: list[str] = []
    given = scenario("", "-b 64", "--unknown", more_is_better=more_is_better)
    tuned, trials = await tune(given, LlamaServer(binary, tmp_path / "none.gguf", 1), told.append)
    assert trials == (
        Trial("", 14.0, taken == ""),
        Trial("-b 64", 2.5, taken == "-b 64"),
        Trial("--unknown", None, False),
    )
    assert flags_of(tuned) == taken
    assert len(told) == 3


def flags_of(tuned: ServingScenario) -> str:
    return " ".join(tuned.setup.llama_server_flags)
