"""The line that a running server logs for every request that has ended."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from occupied_server import NARROW, completion, stream
from server_process import Server, running_server

SECRET = "Heliotrope-Zanzibar"


@pytest.fixture(scope="module")
def json_server(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("logs") / "log"
    with running_server(model_path, log, "--log-format", "json", "--log-level", "debug", *NARROW) as server:
        yield server


def logged(server: Server, request_id: str) -> dict[str, Any]:
    """The line of a request that has just ended; another thread writes it a moment later."""
    deadline = time.monotonic() + 10
    while True:
        lines = [json.loads(line) for line in server.log.read_text().splitlines()]
        found = [x for x in lines if x["logger"] == "predictor.requests" and x["request_id"] == request_id]
        if found:
            assert len(found) == 1
            return found[0]
        assert time.monotonic() < deadline, f"no line for {request_id}"
        time.sleep(0.02)


def post(server: Server, path: str, body: dict[str, Any], request_id: str) -> httpx.Response:
    url = server.http_url + path
    return httpx.post(url, json=body, headers={"x-request-id": request_id}, timeout=60)


def test_a_finished_request_is_logged_with_its_figures(json_server: Server) -> None:
    body = completion(json_server, 4)
    usage = post(json_server, "/v1/completions", body, "one").json()["usage"]
    line = logged(json_server, "one")
    assert line["level"] == "info"
    assert line["message"] == "request finished"
    assert line["finish_reason"] == "length"
    assert line["prompt_tokens"] == usage["prompt_tokens"]
    assert line["completion_tokens"] == usage["completion_tokens"] == 4
    assert line["cached_tokens"] == usage["prompt_tokens_details"]["cached_tokens"]
    assert 0 <= line["queue_seconds"] <= line["time_to_first_token_seconds"] < line["total_seconds"] < 60


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/models/smol:predict", {"instances": [{"prompt": "The sea", "max_tokens": 1}]}),
        (
            "/v2/models/smol/infer",
            {
                "inputs": [{"name": "prompt", "datatype": "BYTES", "shape": [1], "data": ["The sea"]}],
                "parameters": {"max_tokens": 1},
            },
        ),
        ("/v2/models/smol/generate", {"text_input": "The sea", "parameters": {"max_tokens": 1}}),
        (
            "/v1/chat/completions",
            {"model": "smol", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1},
        ),
    ],
)
def test_every_protocol_logs_the_callers_id(json_server: Server, path: str, body: dict[str, Any]) -> None:
    request_id = f"id-of{path.replace('/', '-')}"
    response = post(json_server, path, body, request_id)
    assert response.status_code == 200, response.text
    assert response.headers["x-request-id"] == request_id
    line = logged(json_server, request_id)
    assert (line["path"], line["prompt_tokens"] > 0) == (path, True)


def test_a_client_that_leaves_is_logged_too(json_server: Server) -> None:
    with stream(json_server) as running:
        with stream(json_server) as waiting:
            pass
        line = logged(json_server, waiting.headers["x-request-id"])
        assert (line["finish_reason"], line["completion_tokens"]) == ("abort", 0)
        assert "time_to_first_token_seconds" not in line
        assert line["queue_seconds"] == line["total_seconds"]
    assert logged(json_server, running.headers["x-request-id"])["finish_reason"] == "abort"


def test_no_line_holds_text_of_prompts_or_answers(json_server: Server) -> None:
    body = completion(json_server, 8, prompt=f"{SECRET} " * 3, echo=True)
    answer = post(json_server, "/v1/completions", body, "secretive").json()["choices"][0]["text"]
    assert answer.startswith(SECRET)
    chat = {"model": "smol", "messages": [{"role": "user", "content": SECRET}], "temperature": -1}
    assert post(json_server, "/v1/chat/completions", chat, "refused").status_code == 400
    logged(json_server, "secretive")
    assert SECRET not in json_server.log.read_text()
    assert answer.removeprefix(f"{SECRET} " * 3) not in json_server.log.read_text()


def test_text_lines_show_the_fields_after_the_message(server: Server) -> None:
    post(server, "/v1/completions", completion(server, 1), "in-text")
    deadline = time.monotonic() + 10
    while "request_id=in-text " not in server.log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    (line,) = [line for line in server.log.read_text().splitlines() if "in-text" in line]
    assert "INFO    predictor.requests: request finished request_id=in-text path=/v1/completions " in line
