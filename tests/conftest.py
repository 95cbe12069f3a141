"""Fixtures that tests of all folders share."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from occupied_server import NARROW, wait_until_idle
from server_process import Server, running_server

if TYPE_CHECKING:
    from crd_server import CrdServer

MODEL_VARIABLE = "KSERVE_LLAMACPP_TEST_MODEL"


def pytest_configure() -> None:
    """Let programs be interrupted, which a background job of a shell and its children would ignore."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def model_path() -> Path:
    """The demo model's GGUF file."""
    path = os.environ.get(MODEL_VARIABLE)
    if not path:
        pytest.fail(f"{MODEL_VARIABLE} is not set: run `make test`, which fetches the demo model")
    return Path(path)


@pytest.fixture(scope="session", params=["kserve", pytest.param("ray", marks=pytest.mark.ray)])
def platform(request: pytest.FixtureRequest) -> str:
    """Every test of a server runs on both platforms."""
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def server(platform: str, model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server on the demo model for all protocol tests."""
    log = tmp_path_factory.mktemp("server") / "log"
    with running_server(model_path, log, "--platform", platform) as server:
        yield server


@pytest.fixture(scope="session")
def _narrow_server(
    platform: str, model_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("narrow") / "log"
    with running_server(model_path, log, "--platform", platform, *NARROW) as server:
        yield server


@pytest.fixture
def narrow_server(_narrow_server: Server) -> Server:
    """A server that runs one sequence, lets one wait and refuses a third; idle when a test begins."""
    wait_until_idle(_narrow_server)
    return _narrow_server


@pytest.fixture(scope="session")
def agent_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose model says `agent_script.SCRIPT`, to one client at a time, and which pings soon."""
    from agent_script import SCRIPT
    from scripted_model import CONTEXT, write_scripted_model

    folder = tmp_path_factory.mktemp("scripted")
    model, template = write_scripted_model(folder, SCRIPT)
    options = ["--chat-template", str(template), "--threads", "1", "--max-sequences", "1"]
    options += ["--sse-ping-seconds", "0.5"]
    with running_server(model, folder / "log", *options, context_tokens=CONTEXT, name="agent") as server:
        yield server


@pytest.fixture(scope="session")
def crd_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CrdServer]:
    """A real API server that knows the custom resources of ../shared/crds."""
    from crd_definitions import CRD_FOLDER, NO_CRDS
    from crd_server import install_definitions, missing_tool, running_crd_server

    if not CRD_FOLDER.is_dir():
        pytest.skip(NO_CRDS)
    if missing := missing_tool():
        pytest.skip(missing)
    with running_crd_server(tmp_path_factory.mktemp("crd-server")) as server:
        install_definitions(server)
        yield server
