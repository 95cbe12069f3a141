"""`serve --platform ray` beside a cluster that is somebody else's, and on one that it is given."""

from __future__ import annotations

from pathlib import Path

import pytest
from chat_load import ask
from deployed_application import Deployed
from server_process import running_server

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


def test_another_cluster_of_this_machine_is_left_alone(deployed: Deployed, tmp_path: Path) -> None:
    with running_server(deployed.first, tmp_path / "log", "--platform", "ray") as server:
        assert ask(server.http_url).status == 200
        assert deployed.cluster.applications() == {}
        server.process.terminate()
        assert server.process.wait(60) == 0
    assert deployed.cluster.process.is_running()


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
