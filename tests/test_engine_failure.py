"""A process whose engine has failed ends, so that Kubernetes starts it again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from server_process import free_port

# The failure can't be provoked from outside, so the decode loop's step is replaced in the server's process.
SERVER_THAT_FAILS = """
import sys
from predictor.engine.decode_loop import DecodeLoop
original = DecodeLoop.step
def step(self):
    if self.has_work:
        raise RuntimeError("boom")
    original(self)
DecodeLoop.step = step
from predictor.cli import main
sys.argv = ["kserve-llamacpp", *sys.argv[1:]]
main()
"""


def test_the_request_gets_an_error_and_the_process_ends_with_status_1(
    model_path: Path, tmp_path: Path
) -> None:
    port = free_port()
    options = ["serve", str(model_path), "--http-port", str(port), "--no-enable-grpc"]
    log = tmp_path / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVER_THAT_FAILS, *options, "--model-name", "smol"],
            stdout=output,
            stderr=output,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until_ready(f"{url}/v2/models/smol/ready", process, log)
        answer = httpx.post(f"{url}/v1/completions", json={"model": "smol", "prompt": "Hi"}, timeout=30)
        assert answer.status_code == 500
        assert "engine failed" in answer.json()["error"]["message"]
        assert process.wait(20) == 1
    finally:
        process.kill()
        process.wait()
    assert "the engine failed: boom" in log.read_text()


def wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(1200):
        try:
            if httpx.get(url).status_code == 200:
                return
        except httpx.TransportError:
            pass
        if process.poll() is not None:
            break
    pytest.fail(log.read_text())
