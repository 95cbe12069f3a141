"""schemathesis makes requests from the server's own OpenAPI document."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest
from calls import PATIENCE, ask, wait_until_idle
from canaries import Canaries
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from server_process import Server, running_server

schemathesis = pytest.importorskip("schemathesis", reason="`make test-faults` installs schemathesis")

pytestmark = [pytest.mark.faults, pytest.mark.timeout(3 * PATIENCE)]

EXAMPLES = 40  # of each operation


def test_requests_from_the_openapi_document(model_path: Path, tmp_path: Path, record: Any) -> None:
    # A small context bounds answers without a limit of their own.
    with running_server(model_path, tmp_path / "log", context_tokens=128) as server:
        counts: Counter[int] = Counter()
        schema = schemathesis.openapi.from_url(f"{server.http_url}/openapi.json")
        operations = [result.ok() for result in schema.get_all_operations()]
        for operation in operations:
            _try(operation, server, counts)
        wait_until_idle(server)
        ask(server, Canaries(), tokens=4)
        assert "Traceback" not in server.log.read_text()
    total = sum(counts.values())
    told = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    record("schemathesis on /openapi.json", total, total, 0, f"{len(operations)} operations; answers: {told}")


def _try(operation: Any, server: Server, counts: Counter[int]) -> None:
    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(operation.as_strategy(), st.booleans())
    def check(case: Any, known: bool) -> None:
        if known:  # most of the server is behind its model's name
            for place in (case.path_parameters, case.body):
                for name in ("model", "model_name"):
                    if isinstance(place, dict) and name in place:
                        place[name] = server.model_name
        response = case.call(timeout=PATIENCE)
        counts[response.status_code] += 1
        if response.status_code not in (501, 503):
            case.validate_response(response, checks=[schemathesis.checks.not_a_server_error])
        if response.status_code >= 400 and response.status_code != 405:
            assert "error" in httpx.Response(response.status_code, content=response.content).json()

    check()
