"""Each error in each protocol's form."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import httpx
import pytest
from fastapi import FastAPI

from predictor.api.http.error_forms import ANTHROPIC, KSERVE, OPENAI, RESPONSES, error_form
from predictor.api.http.errors import grpc_error, http_status, install_error_handlers
from predictor.errors import (
    EngineFailure,
    InvalidRequest,
    ModelNotFound,
    NoChatTemplate,
    NotReady,
    PredictorError,
    PromptTooLong,
    QueueFull,
    RequestTooLarge,
)

CASES: list[tuple[PredictorError, int, str | None, grpc.StatusCode]] = [
    (InvalidRequest("m"), 400, None, grpc.StatusCode.INVALID_ARGUMENT),
    (NoChatTemplate("m"), 400, None, grpc.StatusCode.INVALID_ARGUMENT),
    (PromptTooLong("m"), 400, "context_length_exceeded", grpc.StatusCode.INVALID_ARGUMENT),
    (ModelNotFound("m"), 404, "model_not_found", grpc.StatusCode.NOT_FOUND),
    (RequestTooLarge("m"), 413, "request_too_large", grpc.StatusCode.RESOURCE_EXHAUSTED),
    (QueueFull("m"), 429, "rate_limit_exceeded", grpc.StatusCode.RESOURCE_EXHAUSTED),
    (NotReady("m"), 503, "unavailable", grpc.StatusCode.UNAVAILABLE),
    (EngineFailure("m"), 500, None, grpc.StatusCode.INTERNAL),
]


@pytest.mark.parametrize(("error", "status", "code", "grpc_status"), CASES)
def test_status_and_code(
    error: PredictorError, status: int, code: str | None, grpc_status: grpc.StatusCode, scripted: Any
) -> None:
    assert http_status(error) == status
    assert (grpc_error(error).status_code, grpc_error(error).details) == (grpc_status, "m")
    scripted.engine.refusal = error
    openai = scripted.post("/v1/completions", {"model": "tiny", "prompt": "Hi"})
    assert (openai.status_code, openai.json()["error"]["message"]) == (status, "m")
    assert openai.json()["error"]["code"] == code
    for path, body in (("/v2/models/tiny/generate", {"text_input": "Hi"}), ("/predict", {"prompt": "Hi"})):
        response = scripted.post(path, body)
        assert (response.status_code, response.json()) == (status, {"error": "m"})
        assert ("retry-after" in response.headers) == (status in (429, 503))


def test_an_unexpected_error_shows_nothing_of_itself(scripted: Any, caplog: pytest.LogCaptureFixture) -> None:
    response = scripted.post("/boom", {})
    assert response.status_code == 500
    assert response.json() == {"error": "internal error; the server's log has the details"}
    assert "secret detail" in caplog.text
    assert grpc_error(RuntimeError("secret detail")).details == response.json()["error"]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v1/nothing", "message"),
        ("/openai/v1/nothing", "message"),
        ("/nothing", None),
        ("/v2/models/tiny/nothing", None),
        ("/v1/models/tiny:explain", None),
    ],
)
def test_unknown_routes_answer_in_their_protocols_form(
    scripted: Any, path: str, expected: str | None
) -> None:
    response = scripted.post(path, {})
    assert response.status_code in (404, 405)
    error = response.json()["error"]
    assert path in (error["message"] if expected else error)


FORMS = {
    "OpenAI": OPENAI,
    "OpenAI Responses": RESPONSES,
    "Embeddings": OPENAI,
    "Anthropic": ANTHROPIC,
}


def test_the_path_of_every_route_tells_its_protocol(scripted: Any) -> None:
    """By the tags that the routes themselves have."""
    for path, operations in scripted.http.get("/openapi.json").json()["paths"].items():
        tags = {tag for operation in operations.values() for tag in operation.get("tags", ["other"])}
        expected = {FORMS.get(tag, KSERVE) for tag in tags}
        assert error_form(path.replace("{model}", "smol")) in expected, path


@pytest.mark.parametrize(("path", "name"), [("/v1/messages", "anthropic"), ("/v1/responses", "openai")])
def test_what_middleware_refuses_has_the_protocols_form(scripted: Any, path: str, name: str) -> None:
    """A body too large, in a code that nobody knows, of a method that isn't there, on no route."""
    refused = [
        scripted.http.post(path, content=b" " * 100_001),
        scripted.http.post(path, content=b"{}", headers={"content-encoding": "br"}),
        scripted.http.get(path),
        scripted.http.get(path + "/nothing"),
        scripted.post(path, {"model": "nope", "input": "Hi", "messages": []}),
    ]
    assert [answer.status_code for answer in refused] == [413, 415, 405, 404, 404]
    kinds = [answer.json()["error"]["type"] for answer in refused]
    if name == "anthropic":
        invalid = "invalid_request_error"
        assert kinds == ["request_too_large", invalid, invalid, "not_found_error", "not_found_error"]
        for answer in refused:
            assert answer.json()["type"] == "error"
            assert answer.json()["request_id"] == answer.headers["request-id"]
    else:
        assert set(kinds) == {"invalid_request_error"}
        assert all("param" in answer.json()["error"] for answer in refused)


def test_kserves_own_handlers_do_not_replace_ours() -> None:
    """kserve adds handlers for its exceptions and for `Exception` when its server starts, after ours."""
    rest = pytest.importorskip("kserve.protocol.rest.server")
    dataplane = pytest.importorskip("kserve.protocol.dataplane")
    repository = pytest.importorskip("kserve.model_repository")
    extension = pytest.importorskip("kserve.protocol.model_repository_extension")
    kserve = pytest.importorskip("kserve")
    errors: dict[str, Exception] = {"mine": QueueFull("full", retry_after=3), "odd": KeyError("secret")}

    class Raising(kserve.Model):  # type: ignore[misc, name-defined]
        async def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> Any:
            raise errors[self.name]

    models = repository.ModelRepository()
    for name in errors:
        model = Raising(name)
        model.ready = True
        models.update(model)
    app = FastAPI()
    install_error_handlers(app)
    server = rest.RESTServer(
        "unused", dataplane.DataPlane(models), extension.ModelRepositoryExtension(models), http_port=0
    )
    server._register_endpoints(app)
    server._add_exception_handlers(app)

    async def call(name: str) -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.post(f"/v1/models/{name}:predict", json={"instances": []})

    mine = asyncio.run(call("mine"))
    assert (mine.status_code, mine.json(), mine.headers["retry-after"]) == (429, {"error": "full"}, "3")
    odd = asyncio.run(call("odd"))
    assert (odd.status_code, odd.json()) == (
        500,
        {"error": "internal error; the server's log has the details"},
    )
    unknown = asyncio.run(call("unknown"))
    assert (unknown.status_code, list(unknown.json())) == (404, ["error"])
