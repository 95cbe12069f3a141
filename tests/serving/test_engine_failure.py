"""A process whose engine has failed ends, so that Kubernetes starts it again."""

from __future__ import annotations

import sys
from pathlib import Path

import httpx
from server_process import started_server, wait_until_ready

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
    command = (sys.executable, "-c", SERVER_THAT_FAILS)
    with started_server(model_path, tmp_path / "log", "--no-enable-grpc", command=command) as server:
        wait_until_ready(server)
        body = {"model": server.model_name, "prompt": "Hi"}
        answer = httpx.post(f"{server.http_url}/v1/completions", json=body, timeout=60)
        assert answer.status_code == 500
        assert "engine failed" in answer.json()["error"]["message"]
        assert server.process.wait(60) == 1
    assert "the engine failed: boom" in server.log.read_text()
