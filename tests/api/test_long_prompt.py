"""A prompt that takes ten minutes to read, through an Envoy that cuts after a minute of silence."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import openai
import pytest
from proxies import envoy
from server_process import Server, running_server

IDLE_SECONDS = 60
READING_SECONDS = 640
TOKENS = 7000
PERIOD = 0.2


@contextmanager
def cpu_share(server: Server, share: float) -> Iterator[None]:
    """Within the block the server's process gets a share of each period, as with a container's CPU quota."""
    over = threading.Event()

    def throttle() -> None:
        while not over.wait(PERIOD * share):
            os.kill(server.process.pid, signal.SIGSTOP)
            time.sleep(PERIOD * (1 - share))
            os.kill(server.process.pid, signal.SIGCONT)

    thread = threading.Thread(target=throttle)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def words(count: int, first: str) -> str:
    """About so many tokens."""
    return first + " the" * count


def seconds_per_token(server: Server) -> float:
    body = {"model": server.model_name, "prompt": words(1000, "measure"), "max_tokens": 1}
    began = time.monotonic()
    httpx.post(f"{server.http_url}/v1/completions", json=body, timeout=300).raise_for_status()
    return (time.monotonic() - began) / 1000


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_prompt_of_ten_minutes_through_envoy(model_path: Path, tmp_path: Path) -> None:
    options = ("--threads", "1", "--no-openblas")
    with (
        running_server(model_path, tmp_path / "log", *options, context_tokens=8192) as server,
        envoy(server.http_url, tmp_path, idle_seconds=IDLE_SECONDS) as front,
        openai.OpenAI(base_url=f"{front}/v1", api_key="none", max_retries=0, timeout=IDLE_SECONDS) as client,
    ):
        share = min(1.0, seconds_per_token(server) * TOKENS / READING_SECONDS)
        began = time.monotonic()
        with cpu_share(server, share):
            stream = client.completions.create(
                model=server.model_name, prompt=words(TOKENS, "read"), max_tokens=2, stream=True
            )
            opened = time.monotonic() - began
            first = next(iter(stream))
            silence = time.monotonic() - began
        rest = "".join(chunk.choices[0].text for chunk in stream if chunk.choices)
    print(f"share {share:.3f}, headers after {opened:.1f} s, first token after {silence:.0f} s")
    assert first.choices[0].text + rest
    assert silence > 5 * IDLE_SECONDS
