"""Conversions: the command on a real model, what is refused, and what a stop leaves behind."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import llama_cpp
import numpy as np
import pytest
from tiny_models import CONTEXT, tiny_llama

from predictor.errors import ConversionError
from predictor.formats import convert as convert_module
from predictor.formats.command import _target
from predictor.formats.convert import convert, plan_conversion
from predictor.formats.measure import default_text, measure
from predictor.models.gguf import read_header

COMMAND = (sys.executable, "-m", "predictor.cli", "models", "convert")
STOPPED = 130
SLOW_CONVERSION = """
import os, sys
from pathlib import Path
from predictor.formats.convert import convert, plan_conversion
conversion = plan_conversion(Path(sys.argv[1]), Path(sys.argv[2]), "Q8_0", 0)
try:
    convert(conversion, 1, lambda done, _all: print(done, flush=True))
except KeyboardInterrupt:
    os._exit(130)
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return tiny_llama(tmp_path / "small-F32.gguf").path


def refusal(source: Path, target: Path, quantisation: str = "Q4_0") -> str:
    with pytest.raises(ConversionError) as caught:
        plan_conversion(source, target, quantisation, 1000)
    return caught.value.message


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=250,
        stdin=subprocess.DEVNULL,
    )


def table_row(output: str, name: str) -> list[float]:
    found = re.search(rf"{re.escape(name)}\W+([\d.,]+)\W+([\d.,]+)\W+([\d.,]+)", output)
    assert found, output
    return [float(value.replace(",", "")) for value in found.groups()]


def test_the_demo_model_gets_a_smaller_file_and_its_figures(model_path: Path, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text(default_text()[:3000])
    target = tmp_path / "out.gguf"
    done = run(model_path, target, "--to", "q4_0", "--text", text, "--yes")
    assert done.returncode == 0, done.stderr
    assert read_header(target).quantisation == "Q4_0"
    assert "quantised already" in done.stderr
    # There is no terminal: progress comes in lines, each tenth once.
    told = re.findall(r"^converting to \w+: (\d+)%$", done.stderr, re.M)
    assert told[-1] == "100"
    assert 2 < len(told) == len(set(told)) <= 11
    assert "measuring" in done.stderr
    size = table_row(done.stdout, "size, MiB")
    assert size[0] == pytest.approx(model_path.stat().st_size / 2**20, abs=0.1)
    assert size[1] == pytest.approx(target.stat().st_size / 2**20, abs=0.1)
    for name in ("prefill, tokens/s", "decode, tokens/s"):
        before, after, ratio = table_row(done.stdout, name)
        assert before > 0
        assert ratio == pytest.approx(after / before, rel=0.05)
    before, after, _ = table_row(done.stdout, "perplexity")
    # Other tokens would give the size of the vocabulary, 49,152.
    assert 5 < before < after < 200
    assert {path.name for path in tmp_path.iterdir()} == {"text", "out.gguf"}


def test_the_perplexity_is_the_one_of_llama_cpp_python(small: Path) -> None:
    text = "the quick brown fox jumps over the lazy dog " * 15
    reference = llama_cpp.Llama(str(small), n_ctx=CONTEXT, n_batch=CONTEXT, logits_all=True, verbose=False)
    tokens = reference.tokenize(text.encode(), add_bos=False)
    window = CONTEXT - 1
    losses = []
    for start in range(0, len(tokens) - window + 1, window):
        ids = [reference.token_bos(), *tokens[start : start + window]]
        reference.reset()
        reference.eval(ids)
        for place in range(CONTEXT // 2, CONTEXT - 1):
            logits = reference.scores[place].astype(np.float64)
            losses.append(np.log(np.exp(logits).sum()) - logits[ids[place + 1]])
    progress: list[float] = []
    measured = measure(small, text, 1, progress.append)
    assert measured.scored_tokens == len(losses)
    assert measured.perplexity == pytest.approx(np.exp(np.mean(losses)), rel=1e-3)
    assert progress == sorted(progress)
    assert progress[-1] == 1


def test_a_short_text_is_refused(small: Path) -> None:
    with pytest.raises(ConversionError, match=r"the text has \d+ tokens; at least 255 are needed"):
        measure(small, "abc", 1)


def test_nothing_is_overwritten(small: Path, tmp_path: Path) -> None:
    target = tmp_path / "mine.gguf"
    target.write_text("precious")
    assert "exists already" in refusal(small, target)
    assert target.read_text() == "precious"


def test_a_file_that_appears_meanwhile_is_not_overwritten(small: Path, tmp_path: Path) -> None:
    target = tmp_path / "mine.gguf"
    conversion = plan_conversion(small, target, "Q4_0", 0)
    with pytest.raises(ConversionError, match="exists already"):
        convert(conversion, 1, lambda _done, _all: target.write_text("precious"))
    assert target.read_text() == "precious"
    assert {path.name for path in tmp_path.iterdir()} == {small.name, "mine.gguf"}


def test_unknown_formats_and_folders(small: Path, tmp_path: Path) -> None:
    assert "unknown format 'Q4_9'; known: F32, F16, Q4_0" in refusal(small, tmp_path / "o.gguf", "Q4_9")
    assert f"{tmp_path / 'none'} is not a folder" in refusal(small, tmp_path / "none" / "o.gguf")


def test_too_little_room(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(convert_module.shutil, "disk_usage", lambda _folder: usage(10**9, 10**9, 1000))
    assert re.search(r"has 0 MiB free, but the new file takes \d+ MiB", refusal(small, tmp_path / "o.gguf"))


def test_a_failing_conversion_leaves_nothing(small: Path, tmp_path: Path) -> None:
    conversion = plan_conversion(small, tmp_path / "o.gguf", "Q4_0", 0)
    small.write_bytes(small.read_bytes()[:100_000])
    with pytest.raises(ConversionError, match=r"llama\.cpp cannot convert"):
        convert(conversion, 1, lambda _done, _all: None)
    assert [path.name for path in tmp_path.iterdir()] == [small.name]


@pytest.fixture
def started(model_path: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_CONVERSION, str(model_path), str(tmp_path / "o.gguf")],
        stdout=subprocess.PIPE,
        text=True,
    )
    yield process
    process.kill()
    process.wait()


def test_ctrl_c_leaves_nothing(started: subprocess.Popen[str], tmp_path: Path) -> None:
    assert started.stdout is not None
    while int(started.stdout.readline()) < 5:
        pass
    assert [path.suffix for path in tmp_path.iterdir()] == [".part"]
    started.send_signal(signal.SIGINT)
    assert started.wait(60) == STOPPED
    time.sleep(0.1)
    assert list(tmp_path.iterdir()) == []


def test_without_a_terminal_it_asks_for_yes(small: Path, tmp_path: Path) -> None:
    done = run(small, tmp_path / "o.gguf", "--to", "Q4_0")
    assert done.returncode == 1
    assert "give --yes to convert without asking" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == [small.name]


def test_no_format_of_its_size_is_an_error_that_says_so(small: Path, tmp_path: Path) -> None:
    done = run(small, tmp_path / "o.gguf", "--yes")
    assert done.returncode == 1
    assert "no format of about the size of F32 is faster on this CPU" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "SmolLM2-135M-Instruct.Q4_0.gguf"),
        ("m-f16.gguf", "m-Q4_0.gguf"),
        ("big-Q5_K_M-00001-of-00003.gguf", "big-Q4_0.gguf"),
        ("model.gguf", "model-Q4_0.gguf"),
        ("m-IQ4_XS.gguf", "m-Q4_0.gguf"),
    ],
)
def test_the_default_name_has_the_new_format(name: str, expected: str) -> None:
    assert _target(Path("folder", name), "q4_0", Path("folder")) == Path("folder", expected)
