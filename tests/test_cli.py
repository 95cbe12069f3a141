"""The command as a user runs it: a process, its exit status and what it prints."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from predictor import cli
from predictor.settings import ENV_PREFIX, Settings, env_var, flag, shown
from rollout.cli import app as rollout_app

FIELDS = [field for field in Settings.model_fields if field != "model"]
COMMAND = [sys.executable, "-c", "from predictor.cli import main; main()"]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}
    env = inherited | {"COLUMNS": "200", "NO_COLOR": "1"} | environment
    return subprocess.run([*COMMAND, *arguments], env=env, capture_output=True, text=True, timeout=60)


def settings_from(*arguments: str) -> Settings:
    """What `serve` would run with, parsed by the command itself."""
    command = typer.main.get_command(cli.app)
    root = command.make_context("kserve-llamacpp", ["serve", *arguments])
    _, serve, rest = command.resolve_command(root, ["serve", *arguments])
    return cli._settings(**serve.make_context("serve", rest, parent=root).params)


@pytest.fixture(scope="module")
def help_text() -> str:
    result = run("serve", "--help")
    assert result.returncode == 0, result.stderr
    return result.stdout


def panel(text: str, title: str) -> str:
    """The box with this title, its frame and line breaks taken out."""
    found = re.search(rf"─ {re.escape(title)} ─(.*?)╰─", text, re.S)
    assert found, f"no group {title!r} in\n{text}"
    return " ".join(found[1].replace("│", " ").split())


@pytest.mark.parametrize("field", FIELDS)
def test_help_shows_each_option_in_its_group(help_text: str, field: str) -> None:
    info, display = Settings.model_fields[field], shown(field)
    group = panel(help_text, display.group)
    default = f"({display.default})" if display.default else str(info.default)
    if info.annotation is bool:
        default = flag(field)[2:] if info.default else f"no-{flag(field)[2:]}"
    option = re.search(
        rf"{flag(field)} (?!-)(.*?)(?= --[a-z]|$)", group.replace(f" --no-{flag(field)[2:]}", "")
    )
    assert option, group
    assert f"[env var: {env_var(field)}]" in option[1]
    assert f"[default: {default}]" in group
    unit = display.unit if "|" in display.unit else display.unit.upper()
    assert option[1].startswith(unit)


def commands_of(command: Any, *path: str) -> Iterator[tuple[str, ...]]:
    yield path
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands_of(inner, *path, name)


COMMANDS = [*commands_of(typer.main.get_command(cli.app))] + [
    ("rollout", *path) for path in commands_of(typer.main.get_command(rollout_app)) if path
]


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_has_words_where_typer_has_types(path: tuple[str, ...]) -> None:
    """`<bool>` and `<float range>` say nothing to a person."""
    app, path = (rollout_app, path[1:]) if path[:1] == ("rollout",) and len(path) > 1 else (cli.app, path)
    shown = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"}).output
    assert "--help" in shown
    assert re.findall(r"<\w[\w ]*>", shown.replace("<think>", "")) == []


def test_help_shows_the_model(help_text: str) -> None:
    arguments = panel(help_text, "Arguments")
    assert "MODEL" in arguments
    assert "hf://owner/repo[:quantisation]" in arguments
    assert "[env var: LLAMACPP_MODEL]" in arguments


def test_help_imports_neither_kserve_nor_llama_cpp() -> None:
    code = "import sys, predictor.cli; print([m for m in ('kserve', 'llama_cpp') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_version() -> None:
    assert run("--version").stdout == f"kserve-llamacpp {version('kserve-llamacpp')}\n"


VALUES = {
    "host": "::1",
    "model_name": "m",
    "model_file": "Q4_0",
    "pooling": "mean",
    "lora": "a=x.gguf",
    "chat_template": __file__,
    "reasoning": "off",
    "trust_message_tokens": "true",
    "enable_grpc": "false",
    "mmap": "false",
    "full_window": "true",
    "mlock": "true",
    "draft_ngrams": "true",
    "ui": "true",
    "log_llama": "true",
    "openblas": "false",
    "log_text": "true",
    "flash_attention": "on",
    "kv_cache_type": "q8_0",
    "log_level": "error",
    "log_format": "json",
    "otlp_traces_endpoint": "http://collector:4318/v1/traces",
    "platform": "ray",
    "routing": "load",
    "api_key_file": __file__,
    "tls_cert_file": __file__,
    "tls_key_file": __file__,
    "cors_origins": "https://a.example,http://localhost:3000",
}
# What else an option needs, by field.
COMPANIONS = {
    **{key: {"platform": "ray"} for key in ("replicas", "replica_gpus", "routing", "canary_model")},
    **{key: {"platform": "ray", "max_replicas": "77"} for key in ("min_replicas", "max_replicas")},
    "canary_percent": {"platform": "ray", "canary_model": "m"},
    **{key: {"api_key_file": __file__} for key in ("key_requests_per_minute", "key_max_concurrent")},
    "tls_cert_file": {"tls_key_file": __file__},
    "tls_key_file": {"tls_cert_file": __file__},
}


@pytest.mark.parametrize("field", FIELDS)
def test_a_flag_equals_its_variable(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    value = VALUES.get(field, "77")
    for companion, its_value in COMPANIONS.get(field, {}).items():
        if companion != field:
            monkeypatch.setenv(env_var(companion), its_value)
    if Settings.model_fields[field].annotation is bool:
        by_flag = settings_from("m", flag(field) if value == "true" else f"--no-{flag(field)[2:]}")
    else:
        by_flag = settings_from("m", flag(field), value)
    monkeypatch.setenv(env_var(field), value)
    assert settings_from("m") == by_flag
    assert getattr(by_flag, field) != Settings.model_fields[field].default


def test_a_flag_wins_over_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMACPP_MAX_QUEUE", "7")
    monkeypatch.setenv("LLAMACPP_MODEL", "environment.gguf")
    assert settings_from().model == "environment.gguf"
    assert settings_from("flag.gguf", "--max-queue", "8").model == "flag.gguf"
    assert settings_from("--model-dir", "/mnt/models", "--max-queue", "8").model == "/mnt/models"
    assert settings_from("flag.gguf", "--max-queue", "8").max_queue == 8


def test_the_arguments_of_a_kserve_manifest() -> None:
    settings = settings_from("--model_name=chat_bot", "--model_dir=/mnt/models", "--http_port=8000")
    assert (settings.model_name, settings.model, settings.http_port) == (("chat_bot",), "/mnt/models", 8000)


def test_two_models_are_one_too_many() -> None:
    result = run("serve", "m.gguf", "--model-dir", "/mnt/models")
    assert result.returncode == 2
    assert "MODEL or as --model-dir, not both" in result.stderr


def test_no_model() -> None:
    result = run("serve")
    assert result.returncode == 2
    assert "MODEL (LLAMACPP_MODEL): missing" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [(["--http-port", "99999"], {}), (["--http_port=99999"], {}), ([], {"LLAMACPP_HTTP_PORT": "99999"})],
)
def test_a_bad_value(arguments: list[str], environment: dict[str, str]) -> None:
    result = run("serve", "m.gguf", *arguments, **environment)
    assert result.returncode == 2
    assert result.stdout == ""
    message = "Input should be less than or equal to 65535, not '99999'"
    assert result.stderr == f"error: --http-port (LLAMACPP_HTTP_PORT): {message}\n"


def test_a_bad_switch_in_the_environment() -> None:
    result = run("serve", "m.gguf", LLAMACPP_MMAP="perhaps")
    assert result.returncode == 2
    assert "--mmap" in result.stderr
    assert "LLAMACPP_MMAP" in result.stderr


def test_an_unknown_option_suggests_the_known_one() -> None:
    result = run("serve", "m.gguf", "--max-queu", "3")
    assert result.returncode == 2
    assert "No such option: --max-queu" in result.stderr
    assert "--max-queue" in result.stderr.replace("--max-queu ", "")


def test_a_server_that_can_not_start_says_why(tmp_path: Path) -> None:
    result = run("serve", str(tmp_path / "missing.gguf"))
    assert result.returncode == 1
    assert f"error: model {tmp_path / 'missing.gguf'} does not exist" in result.stderr
    assert "Traceback" not in result.stderr


def test_inspect_a_model(model_path: Path) -> None:
    result = run("models", "inspect", str(model_path))
    assert result.returncode == 0, result.stderr
    rows = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in result.stdout.splitlines()[1:])
    assert rows["architecture"] == "llama"
    assert rows["quantisation"] == "Q4_1"
    assert rows["context"] == "8192 tokens"
    assert rows["size"] == f"{model_path.stat().st_size / 2**20:.1f} MiB"
    assert "chat template  yes" in result.stdout
    assert rows["tools"].startswith("in Hermes' form")
    assert rows["thoughts"] == "none"
    assert rows["roles"].startswith("user, assistant, system")


def test_inspect_something_else() -> None:
    result = run("models", "inspect", __file__)
    assert result.returncode == 1
    assert f"{__file__} is not a GGUF file" in result.stderr
    assert "Traceback" not in result.stderr
