"""Prompts that are read with OpenBLAS: by the library, and to the same logits but for rounding.

Once loaded it serves every context of the process, so each engine here has a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from predictor.engine.llama.cpu import cpu_features
from predictor.engine.llama.openblas import backend_files

FIRST_CHOICES = """
import asyncio, json, sys
from pathlib import Path
from predictor.engine.config import EngineConfig
from predictor.engine.engine import Engine
from predictor.engine.request import Request, SamplingParams
from predictor.generation.text import collect

async def first_choices(engine):
    params = SamplingParams(temperature=0.0, max_tokens=1, top_logprobs=20)
    prompt = tuple(range(1000, 1000 + int(sys.argv[3])))
    [stream] = engine.submit_all([Request("r", prompt, params)])
    answer = await collect(stream, len(prompt))
    return {top.token: top.logprob for top in answer.logprobs[0].top}

config = EngineConfig(model_path=Path(sys.argv[1]), threads=2, batch_threads=2, openblas=sys.argv[2] == "on")
engine = Engine(config)
print(json.dumps(asyncio.run(first_choices(engine))))
engine.close()
"""


def first_choices(model: Path, openblas: str, prompt_tokens: int) -> dict[str, float]:
    """Log-probabilities of the 20 likeliest tokens after a prompt."""
    command = [sys.executable, "-c", FIRST_CHOICES, str(model), openblas, str(prompt_tokens)]
    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=250).stdout
    choices: dict[str, float] = json.loads(output)
    return choices


@pytest.mark.skipif(backend_files() is None, reason="needs make setup's OpenBLAS, which is for x86-64 Linux")
@pytest.mark.skipif(
    "AMX_INT8" in cpu_features(), reason="with AMX llama.cpp multiplies the demo model itself"
)
def test_long_prompts_are_read_with_it_and_short_ones_without(model_path: Path) -> None:
    without, used = first_choices(model_path, "off", 200), first_choices(model_path, "on", 200)
    assert used != without, "the library was not used"
    common = used.keys() & without.keys()
    assert len(common) >= 15
    assert max(abs(used[token] - without[token]) for token in common) < 0.5
    assert first_choices(model_path, "on", 20) == first_choices(model_path, "off", 20)
