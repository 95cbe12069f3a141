"""A server that can't start: one clear line on standard error, exit status 1, no traceback."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from adapter_files import write_adapter
from server_process import COMMAND
from tiny_gguf import tiny_gguf

from predictor.errors import ModelLoadError
from predictor.serving import startup
from predictor.settings import Settings
from scripts.free_ports import free_port


def error_of(model: Path, *options: str) -> str:
    """The only line that `serve` prints before it fails."""
    ports = ("--http-port", str(free_port()), "--grpc-port", str(free_port()))
    command = [*COMMAND, "serve", str(model), *ports, "--log-level", "error", *options]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 1, result.stderr
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith("error: ")
    return result.stderr.removeprefix("error: ").rstrip()


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert f"model {tmp_path / 'no.gguf'} does not exist" in error_of(tmp_path / "no.gguf")


def test_a_file_that_is_not_a_gguf(tmp_path: Path) -> None:
    path = tmp_path / "text.gguf"
    path.write_text("This is a text.")
    assert f"{path} is not a GGUF file" in error_of(path)


@pytest.mark.parametrize("size", [0, 100, 5000, 50_000_000])
def test_a_truncated_gguf(model_path: Path, tmp_path: Path, size: int) -> None:
    path = tmp_path / "cut.gguf"
    with model_path.open("rb") as whole:
        path.write_bytes(whole.read(size))
    message = error_of(path)
    assert str(path) in message
    assert any(word in message for word in ("truncated", "incomplete", "cut off", "empty", "ends"))


def test_a_gguf_that_llama_cpp_refuses(tmp_path: Path) -> None:
    """Well-formed, but not complete; found out on the load, beside the start of the servers."""
    path = tmp_path / "tiny.gguf"
    path.write_bytes(tiny_gguf())
    message = error_of(path)
    assert f"llama.cpp cannot load {path}" in message
    assert "key not found" in message


def test_a_model_that_does_not_fit_into_the_machine(model_path: Path) -> None:
    message = error_of(model_path, "--context-tokens", "100000000")
    assert "does not fit into memory" in message
    assert "set a smaller context" in message


def test_a_model_that_does_not_fit_into_the_cgroup(model_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is made up: setting a real one takes a cgroup of one's own. Reading it is test_cgroup's."""
    monkeypatch.setattr(startup, "memory_limit", lambda: 90 << 20)
    settings = Settings(model=str(model_path), http_port=free_port(), grpc_port=free_port())
    with pytest.raises(ModelLoadError, match=r"the limit is 0\.09 GiB; raise the memory limit"):
        startup.plan_startup(settings)


@pytest.fixture(params=["0.0.0.0", "127.0.0.1"])
def taken_port(request: pytest.FixtureRequest) -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind((request.param, 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.mark.parametrize("option", ["--http-port", "--grpc-port"])
def test_a_port_in_use(model_path: Path, taken_port: int, option: str) -> None:
    message = error_of(model_path, option, str(taken_port))
    assert (
        message == f"port {taken_port} can't be used (Address already in use): choose another with {option}"
    )


def test_a_chat_template_that_does_not_compile(model_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "template.jinja"
    path.write_text("{% for message in messages %}")
    started = time.monotonic()
    message = error_of(model_path, "--chat-template", str(path))
    assert "chat template can't be compiled (line 1" in message
    assert time.monotonic() - started < 30


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"architecture": "gemma"}, "is for the architecture 'gemma'"),
        ({"kind": "model"}, "is not a LoRA adapter in GGUF"),
        ({"layers": 31}, "changes blk.30.attn_q.weight, which"),
        ({"extra_width": 32}, "incorrect shape"),
    ],
)
def test_an_adapter_that_does_not_fit_the_model(
    model_path: Path, tmp_path: Path, options: dict[str, Any], reason: str
) -> None:
    path = write_adapter(tmp_path / "bad.gguf", model_path, 1, **options)
    message = error_of(model_path, "--lora", f"bad={path}")
    assert str(path) in message
    assert reason in message


def test_adapters_count_towards_memory(
    model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_adapter(tmp_path / "style.gguf", model_path, 1)
    kv_cache = 512 * 30 * 2 * 192 * 2  # tokens, layers, keys and values, their size, bytes
    monkeypatch.setattr(startup, "memory_limit", lambda: model_path.stat().st_size + kv_cache)
    startup.plan_startup(Settings(model=str(model_path), context_tokens=512))
    with pytest.raises(ModelLoadError, match="does not fit into memory"):
        startup.plan_startup(Settings(model=str(model_path), context_tokens=512, lora=f"style={path}"))


def test_an_adapter_that_is_missing_or_cut_short_or_called_like_the_model(
    model_path: Path, tmp_path: Path
) -> None:
    path = write_adapter(tmp_path / "good.gguf", model_path, 1)
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(path.read_bytes()[:100_000])
    assert "no.gguf" in error_of(model_path, "--lora", f"a={tmp_path / 'no.gguf'}")
    assert f"{cut}" in error_of(model_path, "--lora", f"a={cut}")
    message = error_of(model_path, "--lora", f"{model_path.stem}={path}")
    assert message.startswith(f"an adapter has the model's own name '{model_path.stem}'")
    assert "is not a LoRA adapter" in error_of(model_path, "--lora", f"a={model_path}")


def test_a_chat_template_that_is_not_text(model_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "template.jinja"
    path.write_bytes(b"\xff\xfe\x00")
    assert f"the chat template {path} can't be read" in error_of(model_path, "--chat-template", str(path))
