"""The warm process that grammars are tried in."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from predictor.structured.checker import GrammarChecker
from predictor.structured.grammar import json_schema_grammar

HOSTILE = {"type": "integer", "multipleOf": 9_999_991}


def text_of(schema: dict[str, Any]) -> str:
    return json_schema_grammar(schema, "response_format", strict=True).text


def pattern(number: int) -> str:
    return text_of({"type": "string", "pattern": f"^a{{{number}}}$"})


def checks(parent: int) -> list[int]:
    """The check processes of a process."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            command = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if int(fields[1]) == parent and fields[0] != "Z" and b"structured/check.py" in command:
            found.append(int(entry.name))
    return found


async def test_one_process_tries_all_and_is_replaced_when_it_was_killed() -> None:
    checker = GrammarChecker()
    before = set(checks(os.getpid()))
    seen = set()
    for number in range(20):
        assert not (await checker.verdict(pattern(number))).problem
        seen |= set(checks(os.getpid())) - before
    (first,) = seen
    assert (await checker.verdict(text_of(HOSTILE))).problem.startswith("it takes too ")
    assert not (await checker.verdict(pattern(21))).problem
    (process,) = set(checks(os.getpid())) - before
    assert process != first
    os.kill(process, signal.SIGKILL)
    assert not (await checker.verdict(pattern(22))).problem


async def test_a_process_that_ends_by_itself_is_renewed() -> None:
    checker = GrammarChecker()
    await checker.verdict(pattern(1))
    assert checker._process is not None
    assert checker._process.stdin is not None
    renewed = os.dup(checker._process.stdin.fileno())
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, checker._process.stdin.fileno())  # The process sees the end of its input and ends with 0.
    os.close(renewed)
    os.close(null)
    assert not (await checker.verdict(pattern(2))).problem


async def test_clients_that_leave_neither_start_more_checks_nor_leave_theirs_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each asks, waits a moment and leaves, and one check at a time is all there ever is."""
    checker = GrammarChecker()
    tried: list[str] = []
    ask = GrammarChecker._ask

    def noted(self: GrammarChecker, grammar: str) -> Any:
        tried.append(grammar)
        return ask(self, grammar)

    monkeypatch.setattr(GrammarChecker, "_ask", noted)
    before = set(checks(os.getpid()))
    most = 0
    for number in range(60):
        grammar = text_of({"type": "integer", "multipleOf": 9_999_991 + number})
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(checker.verdict(grammar), 0.02)
        most = max(most, len(set(checks(os.getpid())) - before))
    assert not (await checker.verdict(pattern(3))).problem
    assert most == 1
    # A check or two began while sixty came and went; the others were never made.
    assert len(tried) < 10
    assert tried[-1] == pattern(3)


def test_the_process_ends_with_the_server_however_that_ends() -> None:
    code = (
        "import asyncio, os, signal; from predictor.structured.checker import GrammarChecker; "
        "checker = GrammarChecker(); asyncio.run(checker.verdict('start: \"a\"')); "
        "print(checker._process.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGKILL, done.stderr
    process = Path("/proc") / done.stdout.strip()
    deadline = time.monotonic() + 20
    while process.exists() and b"check.py" in (process / "cmdline").read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.05)
