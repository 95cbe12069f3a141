"""The Open Inference Protocol's generate extension against a running server with a real model."""

from __future__ import annotations

import json
from typing import Any

import pytest
import requests

COUNTING = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12,"


def post(server: Any, route: str, body: Any, **options: Any) -> requests.Response:
    return requests.post(
        f"{server.http_url}/v2/models/{server.model_name}/{route}", json=body, timeout=60, **options
    )


def events(response: requests.Response) -> list[Any]:
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = [line for line in response.iter_lines() if line]
    assert all(line.startswith(b"data: ") for line in lines)
    return [json.loads(line[6:]) for line in lines]


def test_generate(server: Any) -> None:
    body = {"text_input": COUNTING, "parameters": {"temperature": 0, "max_tokens": 12}}
    answer = post(server, "generate", body).json()
    assert set(answer) == {"text_output", "model_name"}
    assert answer["model_name"] == server.model_name
    assert "13" in answer["text_output"]
    assert COUNTING not in answer["text_output"]


def test_details_and_the_protocols_default_length(server: Any) -> None:
    body = {"text_input": COUNTING, "parameters": {"temperature": 0, "details": True}, "id": "call-1"}
    answer = post(server, "generate", body).json()
    assert answer["id"] == "call-1"
    details = answer["details"]
    assert details["finish_reason"] == "length"
    assert len(details["logprobs"]) == 20
    assert "".join(token["text"] for token in details["logprobs"]) == answer["text_output"]
    for token in details["logprobs"]:
        assert set(token) == {"id", "text", "logprob", "special"}
        assert token["logprob"] <= 0


def test_the_stream_adds_up(server: Any) -> None:
    parameters = {"temperature": 0, "max_tokens": 12}
    whole = post(server, "generate", {"text_input": COUNTING, "parameters": parameters}).json()
    plain = events(
        post(server, "generate_stream", {"text_input": COUNTING, "parameters": parameters}, stream=True)
    )
    assert "".join(event["text_output"] for event in plain) == whole["text_output"]
    assert len(plain) > 3
    body = {"text_input": COUNTING, "parameters": {**parameters, "details": True}}
    detailed = events(post(server, "generate_stream", body, stream=True))
    assert "".join(event["text_output"] for event in detailed) == whole["text_output"]
    assert "".join(event["details"]["token"]["text"] for event in detailed) == whole["text_output"]
    reasons = [event["details"]["finish_reason"] for event in detailed]
    assert reasons == [None] * 11 + ["length"]


def test_a_stop_string_is_named_as_the_reason(server: Any) -> None:
    parameters = {"temperature": 0, "max_tokens": 60, "stop": ["15"], "details": True}
    answer = post(server, "generate", {"text_input": COUNTING, "parameters": parameters}).json()
    assert answer["details"]["finish_reason"] == "stop_sequence"
    assert "15" not in answer["text_output"]


def test_the_models_own_end_is_named_even_where_stop_strings_were_given(server: Any) -> None:
    question = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    parameters = {"temperature": 0, "max_tokens": 60, "stop": ["never said"], "details": True}
    answer = post(server, "generate", {"text_input": question, "parameters": parameters}).json()
    assert answer["details"]["finish_reason"] == "eos_token"


@pytest.mark.parametrize("route", ["generate", "generate_stream"])
@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, "text_input is missing"),
        ({"text_input": 3}, "text_input: must be a valid string, not 3"),
        ({"text_input": ""}, "the prompt is empty"),
        ({"text_input": "a", "parameters": {"temperature": "hot"}}, "parameters: temperature"),
        ({"text_input": "a", "parameters": {"max_new_tokens": 3}}, "unknown field 'max_new_tokens'"),
        ({"text_input": "a", "parameters": []}, "parameters: must be"),
    ],
)
def test_errors_are_kserves_and_plain(server: Any, route: str, body: Any, expected: str) -> None:
    response = post(server, route, body)
    assert response.status_code == 400
    assert list(response.json()) == ["error"]
    assert expected in response.json()["error"]


def test_unknown_models_and_versions(server: Any) -> None:
    for path in ("nope/generate", f"{server.model_name}/versions/2/generate", "nope/generate_stream"):
        response = requests.post(f"{server.http_url}/v2/models/{path}", json={"text_input": "a"}, timeout=60)
        assert response.status_code == 404
        assert isinstance(response.json()["error"], str)
