"""Servers for the clients, and the report of what they did."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from client_report import Row, versions, write
from server_process import Server, running_server

FOLDER_VARIABLE = "KSERVE_LLAMACPP_CLIENTS"
REPORT_VARIABLE = "KSERVE_LLAMACPP_CLIENT_REPORT"


@pytest.fixture(scope="session")
def folder() -> Path:
    """Where the clients are installed: a virtual environment `venv`, and `node_modules`."""
    given = os.environ.get(FOLDER_VARIABLE)
    if not given:
        pytest.skip(f"{FOLDER_VARIABLE} is not set: run `make test-clients`, which installs the clients")
    return Path(given).resolve()


@pytest.fixture(scope="session")
def demo_server(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(model_path, tmp_path_factory.mktemp("demo") / "log") as server:
        yield server


@pytest.fixture(scope="session")
def rows(folder: Path) -> Iterator[dict[tuple[str, str], Row]]:
    """What came of each client and protocol; written into the page at the end."""
    gathered: dict[tuple[str, str], Row] = {}
    yield gathered
    if page := os.environ.get(REPORT_VARIABLE):
        write(Path(page), list(gathered.values()), versions(folder))
