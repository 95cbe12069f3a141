"""What `make serve` serves, and that its own model is no reason for a warning."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from predictor.engine.llama.cpu import cpu_features, is_repacked
from predictor.formats.advice import log_format
from predictor.formats.repacking import report_format
from predictor.models.gguf_split import read_parts

ROOT = Path(__file__).parent.parent


def served(*arguments: str) -> str:
    """The command that `make serve` would run."""
    environment = {name: value for name, value in os.environ.items() if name != "MODEL"}
    command = ["make", "-n", "serve", "XDG_CACHE_HOME=/cache", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return next(line for line in done.stdout.splitlines() if "kserve-llamacpp serve" in line)


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_make_serve_has_a_model_of_its_own_and_takes_another() -> None:
    assert '"/cache/kserve-llamacpp/models/SmolLM2-135M-Instruct.Q4_0.gguf"' in served()
    assert '"/m/x.gguf"' in served("MODEL=/m/x.gguf")


def test_the_demo_model_gets_no_advice(
    model_path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if "AVX2" not in cpu_features():
        pytest.skip("which formats are fast is another matter on this CPU")
    target = tmp_path / "demo.Q4_0.gguf"
    script = ROOT / "scripts" / "convert_demo_model.py"
    done = subprocess.run(
        [sys.executable, str(script), str(model_path), str(target)],
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    assert "Converted the demo model to Q4_0 in" in done.stdout
    with caplog.at_level("INFO"):
        log_format(report_format(read_parts(target), is_repacked), target)
    assert [x.getMessage() for x in caplog.records if x.name == log_format.__module__] == []
