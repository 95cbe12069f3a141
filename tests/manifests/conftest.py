"""The API server that the tests of this folder share."""

from __future__ import annotations

import time
from collections.abc import Iterator

import crd_schemas
import pytest
from crd_server import CRDS, CrdServer, missing_tool, running_crd_server

ESTABLISHED_SECONDS = 30.0


@pytest.fixture(scope="session")
def crd_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CrdServer]:
    """A server that knows the custom resources of ../shared/crds."""
    if not crd_schemas.CRD_FOLDER.is_dir():
        pytest.skip(crd_schemas.NO_CRDS)
    if missing := missing_tool():
        pytest.skip(missing)
    with running_crd_server(tmp_path_factory.mktemp("crd-server")) as server:
        for definition in crd_schemas.definitions().values():
            response = server.create(CRDS, definition)
            assert response.is_success, response.text
        _wait_established(server, set(crd_schemas.definitions()))
        yield server


def _wait_established(server: CrdServer, names: set[str]) -> None:
    deadline = time.monotonic() + ESTABLISHED_SECONDS
    while time.monotonic() < deadline:
        established = {
            item["metadata"]["name"]
            for item in server.client.get(CRDS).json()["items"]
            for condition in item.get("status", {}).get("conditions") or []
            if (condition["type"], condition["status"]) == ("Established", "True")
        }
        if established == names:
            time.sleep(1)  # the handlers follow the status within moments
            return
        time.sleep(0.2)
    raise AssertionError(f"not established: {names - established}")
