"""The decode thread computes everything, so llama.cpp has one set of threads and no more than cores."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

COUNT_THREADS = """
import asyncio, sys
from pathlib import Path
import psutil
from predictor.engine.config import EngineConfig
from predictor.engine.engine import Engine
from predictor.engine.request import Request, SamplingParams
from predictor.generation.text import collect

async def ask(engine):
    [stream] = engine.submit_all([Request("r", (1000, 1001), SamplingParams(max_tokens=2, ignore_eos=True))])
    await collect(stream, 2)

process = psutil.Process()
before = process.num_threads()
engine = Engine(EngineConfig(model_path=Path(sys.argv[1]), threads=2, batch_threads=2))
asyncio.run(ask(engine))
print(process.num_threads() - before)
engine.close()
"""


def test_an_engine_made_on_any_thread_adds_no_threads_but_its_own(model_path: Path) -> None:
    command = [sys.executable, "-c", COUNT_THREADS, str(model_path)]
    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    assert int(output) == 2, "the decode thread and one helper of llama.cpp's"
