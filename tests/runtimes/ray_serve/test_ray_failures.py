"""What a failed call to a replica looks like to the client; none of it needs Ray to run."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, RayTaskError
from ray.serve.exceptions import BackPressureError

from predictor.api.http.errors import grpc_error, http_status
from predictor.errors import NotReady
from runtimes.ray_serve.gateway import asks_a_model, explained
from runtimes.ray_serve.open_inference import OpenInferenceService


def test_a_message_that_is_none_is_the_clients_mistake() -> None:
    service = OpenInferenceService(None, None, None)  # type: ignore[arg-type]
    answer = asyncio.run(service.call("ModelInfer", b"\xff\xff\xff", []))
    assert answer.code == "INVALID_ARGUMENT"
    assert "no ModelInferRequest" in answer.details


def test_a_mistake_in_the_replica_is_not_called_its_end() -> None:
    error = RayTaskError("infer", "a traceback", ZeroDivisionError("division by zero")).as_instanceof_cause()
    known = explained(error)
    assert grpc_error(known).status_code.name == "INTERNAL"
    assert http_status(known) == 500
    assert "send" not in known.message
    assert "division" not in known.message


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ActorDiedError(), "UNAVAILABLE"),
        (BackPressureError(num_queued_requests=9, max_queued_requests=9), "RESOURCE_EXHAUSTED"),
        (NotReady("soon"), "UNAVAILABLE"),
    ],
)
def test_what_a_later_try_may_mend_says_so(error: Any, code: str) -> None:
    assert grpc_error(explained(error)).status_code.name == code


@pytest.mark.parametrize(
    ("method", "path", "divided"),
    [
        ("POST", "/v1/chat/completions", True),
        ("POST", "/predict", True),
        ("GET", "/metrics", False),
        ("GET", "/v2/health/ready", False),
        ("GET", "/v1/models", False),
    ],
)
def test_probes_and_metrics_are_not_divided(method: str, path: str, divided: bool) -> None:
    assert asks_a_model({"type": "http", "method": method, "path": path}) is divided
