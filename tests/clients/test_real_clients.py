"""Clients that people use, each in a process of its own, against a scripted model and a real one.

`make test-clients` installs them, apart from everything else.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from agent_script import CALLS, LAST
from client_report import Row
from scripted_model import CONTEXT, Script, Turn, write_scripted_model
from server_process import Server, running_server

pytestmark = [pytest.mark.clients, pytest.mark.timeout(1000)]

PROGRAMS = Path(__file__).with_name("programs")
CHAT, RESPONSES, MESSAGES = "chat completions", "Responses", "Messages"
SECONDS = 900
"""Coding agents send tens of thousands of tokens, and machines may be busy."""

# Package, protocol, program, arguments.
CLIENTS = [
    ("openai", CHAT, "openai_chat.py", ()),
    ("openai", RESPONSES, "openai_responses.py", ()),
    ("anthropic", MESSAGES, "anthropic_tool_runner.py", ()),
    ("openai-agents", RESPONSES, "openai_agents_responses.py", ()),
    ("openai-agents", CHAT, "openai_agents_chat.py", ()),
    ("pydantic-ai-slim", RESPONSES, "pydantic_ai_openai_responses.py", ()),
    ("pydantic-ai-slim", CHAT, "pydantic_ai_openai_chat.py", ()),
    ("pydantic-ai-slim", MESSAGES, "pydantic_ai_anthropic.py", ()),
    ("langchain-openai", RESPONSES, "langchain_responses.py", ()),
    ("langchain-openai", CHAT, "langchain_chat.py", ()),
    ("langchain-anthropic", MESSAGES, "langchain_messages.py", ()),
    ("llama-index-llms-openai-like", CHAT, "llama_index_chat.py", ()),
    ("litellm", CHAT, "litellm_chat.py", ()),
    ("litellm", RESPONSES, "litellm_responses.py", ()),
    ("litellm", MESSAGES, "litellm_anthropic.py", ()),
    ("ai", RESPONSES, "ai_sdk.mjs", ("responses",)),
    ("ai", CHAT, "ai_sdk.mjs", ("chat",)),
    ("ai", MESSAGES, "ai_sdk.mjs", ("anthropic",)),
]
NAMES = [f"{package}-{protocol}" for package, protocol, _, _ in CLIENTS]


def run(folder: Path, program: str, *arguments: str) -> Any:
    """What a program tells, with the interpreter that its client is installed for."""
    source = PROGRAMS / program
    if program.endswith(".mjs"):
        # Node looks for packages beside the program.
        source = Path(shutil.copy(source, folder / program))
        command = [shutil.which("node") or "node", str(source), *arguments]
    else:
        command = [str(folder / environment_of(program) / "bin" / "python"), str(source), *arguments]
    environment = {**os.environ, "OPENAI_AGENTS_DISABLE_TRACING": "1", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def environment_of(program: str) -> str:
    """Which environment has a program's client: not all agree on versions of `openai` and `anthropic`."""
    for name in ("llama_index", "pydantic_ai"):
        if program.startswith(name):
            return f"venv-{name.replace('_', '-')}"
    return "venv"


def note(rows: dict[tuple[str, str], Row], package: str, protocol: str, **what: str) -> None:
    row = rows.get((package, protocol), Row(package, protocol))
    rows[package, protocol] = replace(row, **what)


@pytest.mark.parametrize(("package", "protocol", "program", "arguments"), CLIENTS, ids=NAMES)
def test_a_loop_of_three_calls_with_a_scripted_model(
    package: str,
    protocol: str,
    program: str,
    arguments: tuple[str, ...],
    folder: Path,
    agent_server: Server,
    rows: dict[tuple[str, str], Row],
) -> None:
    note(rows, package, protocol, scripted="failed")
    told = run(folder, program, agent_server.http_url, agent_server.model_name, *arguments)
    # Clients may run the calls of one turn at the same time.
    assert sorted(map(str, told["calls"])) == sorted(str([name, given]) for name, given in CALLS)
    assert told["text"].endswith(LAST)
    note(rows, package, protocol, scripted="3 calls, answered")


# Coding agents: they run three commands.


@contextmanager
def coding_server(folder: Path, tool: str, argument: str) -> Iterator[Server]:
    """A server whose model calls a tool three times with a shell's command."""
    steps = [(tool, {argument: f"echo step-{i} >> steps.txt"}) for i in (1, 2, 3)]
    turns = {i: Turn(calls=[step]) for i, step in enumerate(steps)}
    script = Script(turns, Turn("All three steps are done."), Turn("Hello!"))
    model, template = write_scripted_model(folder, script)
    options = ("--chat-template", str(template))
    with running_server(model, folder / "log", *options, context_tokens=CONTEXT, name="scripted") as server:
        yield server


def do_steps(command: list[str], folder: Path, **environment: str) -> str:
    work, home = folder / "work", folder / "home"
    work.mkdir()
    home.mkdir(exist_ok=True)
    done = subprocess.run(
        command,
        cwd=work,
        env={**os.environ, "HOME": str(home), **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert (work / "steps.txt").read_text().split() == ["step-1", "step-2", "step-3"], done.stdout[-2000:]
    return done.stdout


def test_claude_code_runs_three_commands(
    folder: Path, tmp_path: Path, rows: dict[tuple[str, str], Row]
) -> None:
    package = "@anthropic-ai/claude-code"
    note(rows, package, MESSAGES, scripted="failed")
    binary = folder / "node_modules" / ".bin" / "claude"
    with coding_server(tmp_path, "Bash", "command") as server:
        said = do_steps(
            [str(binary), "-p", "Do three steps.", "--dangerously-skip-permissions"],
            tmp_path,
            ANTHROPIC_BASE_URL=server.http_url,
            ANTHROPIC_API_KEY="none",
            ANTHROPIC_MODEL=server.model_name,
            ANTHROPIC_SMALL_FAST_MODEL=server.model_name,
            CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC="1",
            IS_SANDBOX="1",
        )
    assert "All three steps are done." in said
    note(rows, package, MESSAGES, scripted="3 commands run, answered")


CODEX = """model = "scripted"
model_provider = "local"
approval_policy = "never"
sandbox_mode = "danger-full-access"
[model_providers.local]
name = "local"
base_url = "{url}/v1"
wire_api = "responses"
request_max_retries = 0
stream_max_retries = 0
"""


def test_codex_runs_three_commands(folder: Path, tmp_path: Path, rows: dict[tuple[str, str], Row]) -> None:
    package = "@openai/codex"
    note(rows, package, RESPONSES, scripted="failed")
    binary = folder / "node_modules" / ".bin" / "codex"
    with coding_server(tmp_path, "exec_command", "cmd") as server:
        configuration = tmp_path / "home" / ".codex" / "config.toml"
        configuration.parent.mkdir(parents=True)
        configuration.write_text(CODEX.format(url=server.http_url))
        said = do_steps([str(binary), "exec", "--skip-git-repo-check", "Do three steps."], tmp_path)
    assert "All three steps are done." in said
    note(rows, package, RESPONSES, scripted="3 commands run, answered")


@pytest.mark.parametrize(("package", "protocol", "program", "arguments"), CLIENTS, ids=NAMES)
def test_a_question_to_a_real_model(
    package: str,
    protocol: str,
    program: str,
    arguments: tuple[str, ...],
    folder: Path,
    demo_server: Server,
    rows: dict[tuple[str, str], Row],
) -> None:
    """A very small one, so what it says is its own affair; that nothing breaks isn't."""
    note(rows, package, protocol, real="failed")
    told = run(folder, program, demo_server.http_url, demo_server.model_name, *arguments)
    calls = len(told["calls"])
    assert told["text"] or calls
    note(rows, package, protocol, real=f"{calls} calls, answered" if told["text"] else f"{calls} calls")


def test_instructor_gets_its_object(
    folder: Path, demo_server: Server, rows: dict[tuple[str, str], Row]
) -> None:
    note(rows, "instructor", CHAT, real="failed")
    told = run(folder, "instructor_chat.py", demo_server.http_url, demo_server.model_name)
    assert told["text"] in ("Paris", "Rome")
    note(rows, "instructor", CHAT, real="an object of its schema")
