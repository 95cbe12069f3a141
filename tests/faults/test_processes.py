"""Signals in the middle of work, and disks that take nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from calls import PATIENCE, ask
from canaries import Canaries
from server_process import Server, running_server

pytestmark = [pytest.mark.faults, pytest.mark.timeout(3 * PATIENCE)]

KILLS = 3


def streamed(server: Server, canaries: Canaries, tokens: int, started: threading.Semaphore) -> str:
    """One streamed completion to its end: its finish reason, or how it broke."""
    word, prompt = canaries.prompt()
    body = {"model": "smol", "prompt": prompt, "max_tokens": tokens, "ignore_eos": True, "stream": True}
    body["temperature"] = 0
    text, reason, done = "", "", False
    try:
        url = f"{server.http_url}/v1/completions"
        with httpx.stream("POST", url, json=body, timeout=PATIENCE) as response:
            for line in response.iter_lines():
                if line == "data: [DONE]":
                    done = True
                elif line:
                    event = json.loads(line.removeprefix("data: "))
                    if "error" in event:
                        return str(event["error"]["message"])
                    choice = event["choices"][0]
                    if not text:
                        started.release()
                    text += choice["text"]
                    reason = choice["finish_reason"] or reason
    except httpx.TransportError as error:
        return type(error).__name__
    finally:
        canaries.check(word, text)
    return reason if done else "cut"


@contextmanager
def streams(server: Server, canaries: Canaries, count: int, tokens: int) -> Iterator[list[Future[str]]]:
    """So many streams, all with a first token."""
    started = threading.Semaphore(0)
    with ThreadPoolExecutor(count) as pool:
        futures = [pool.submit(streamed, server, canaries, tokens, started) for _ in range(count)]
        for _ in futures:
            assert started.acquire(timeout=PATIENCE)
        yield futures


def test_sigterm_during_sixteen_streams(model_path: Path, tmp_path: Path, record: Any) -> None:
    canaries = Canaries()
    with running_server(model_path, tmp_path / "log", "--grace-period-seconds", str(int(PATIENCE))) as server:
        with streams(server, canaries, 16, 64) as futures:
            server.process.send_signal(signal.SIGTERM)
            sent = time.monotonic()
        reasons = [future.result() for future in futures]
        assert server.process.wait(PATIENCE) == 0
        took = time.monotonic() - sent
    assert reasons == ["length"] * 16
    canaries.assert_own()
    record(
        "SIGTERM during 16 streams", 16, 16, 0, f"every stream got its 64 tokens; exit 0 after {took:.1f} s"
    )


def test_sigkill_and_restart_under_load(model_path: Path, tmp_path: Path, record: Any) -> None:
    """No client hangs, and the next process works with what the killed one left in its folder."""
    folder = str(tmp_path / "prefixes")
    broken, restarts = 0, []
    for attempt in range(KILLS + 1):
        canaries = Canaries()
        log = tmp_path / f"log{attempt}"
        began = time.monotonic()
        with running_server(model_path, log, "--prefix-cache-dir", folder) as server:
            restarts.append(time.monotonic() - began)
            ask(server, canaries)
            if attempt < KILLS:
                with streams(server, canaries, 8, 500) as futures:
                    server.process.kill()
                reasons = [future.result() for future in futures]
                assert all(reason in ("cut", "RemoteProtocolError", "ReadError") for reason in reasons), (
                    reasons
                )
                broken += len(reasons)
            canaries.foreign and canaries.assert_own()
        assert "Traceback" not in log.read_text()
    record(
        "SIGKILL and restart under load",
        KILLS,
        KILLS,
        0,
        f"{broken} streams broke at once with their connection, none hung; ready again after "
        f"{min(restarts[1:]):.1f} to {max(restarts[1:]):.1f} s and answering",
    )


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """A small file system of its own."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("mounting a file system takes rights that are not here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize(("fault", "options"), [("full", "size=256k"), ("read-only", "size=1m,ro")])
def test_a_cache_folder_that_takes_nothing(
    fault: str, options: str, model_path: Path, tmp_path: Path, record: Any
) -> None:
    with mounted(tmp_path / "disk", options) as folder:
        for attempt in range(2):
            log, canaries = tmp_path / f"log{attempt}", Canaries()
            with running_server(model_path, log, "--prefix-cache-dir", str(folder / "prefixes")) as server:
                for number in range(4):
                    ask(server, canaries, lead=f"Number {number} is long enough to be worth saving. " * 20)
                canaries.assert_own()
                server.process.send_signal(signal.SIGTERM)
                assert server.process.wait(PATIENCE) == 0
            text = log.read_text()
            assert "prefixes can't be saved" in text
            assert "Traceback" not in text
    record(
        f"Prefix folder on a {fault} disk",
        2,
        2,
        0,
        "one warning at the shutdown, exit 0, and again with what was there",
    )
