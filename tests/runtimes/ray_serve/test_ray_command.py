"""`serve --platform ray` beside a cluster that is somebody else's, and on one that it is given."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import psutil
import pytest
from chat_load import ask
from deployed_application import Deployed
from server_process import running_server, started_server, wait_until_ready

# The command as ever, with less patience.
HOLDS_SHORTLY = """
from predictor import cli
from runtimes.ray_serve import application
application.HOLD_SECONDS = 10
cli.main()
"""

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


def test_another_cluster_of_this_machine_is_left_alone(deployed: Deployed, tmp_path: Path) -> None:
    with running_server(deployed.first, tmp_path / "log", "--platform", "ray") as server:
        assert ask(server.http_url).status == 200
        assert deployed.cluster.applications() == {}
        server.process.terminate()
        assert server.process.wait(60) == 0
    assert deployed.cluster.process.is_running()
    # What Ray's processes say about each other's end helps nobody: the command's own lines come last.
    assert "retries remaining" not in server.log.read_text()
    assert "finishing what runs" in server.log.read_text()


def test_a_given_cluster_keeps_running(
    deployed: Deployed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in deployed.cluster.access.items():
        monkeypatch.setenv(name, value)
    with running_server(deployed.first, tmp_path / "log", "--platform", "ray") as server:
        assert ask(server.http_url).status == 200
        assert list(deployed.cluster.applications()) == ["llamacpp"]
        server.process.terminate()
        assert server.process.wait(60) == 0
    assert deployed.cluster.applications() == {}
    assert deployed.cluster.proxy().is_running()


def test_a_request_that_no_replica_can_take_is_refused(model_path: Path, tmp_path: Path) -> None:
    """The only replica has died, and its file is gone: every new one fails to start."""
    model = Path(shutil.copy(model_path, tmp_path / "model.gguf"))
    command = (sys.executable, "-c", HOLDS_SHORTLY)
    with started_server(model, tmp_path / "log", "--platform", "ray", command=command) as server:
        wait_until_ready(server)
        model.unlink()
        for process in psutil.Process(server.process.pid).children(recursive=True):
            if "ServeReplica:llamacpp:engine" in " ".join(process.cmdline()):
                process.kill()
        answer = ask(server.http_url)
    assert answer.status == 503
    assert answer.retry_after == "30"
    assert "no replica took the request within 10 s" in answer.text
