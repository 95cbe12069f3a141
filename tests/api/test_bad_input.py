"""Bad input to every HTTP route: a clear error in the route's own form, and the server goes on."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

OPENAI = ("/v1/chat/completions", "/v1/completions", "/openai/v1/chat/completions", "/openai/v1/completions")
USER = [{"role": "user", "content": "Hi"}]


def paths(server: Any) -> list[str]:
    return [*OPENAI, f"/v2/models/{server.model_name}/generate", "/predict"]


def error_text(response: requests.Response) -> str:
    """The message, after checking that the body has the form of its route."""
    error = response.json()["error"]
    if any(response.url.endswith(path) for path in OPENAI):
        assert set(error) == {"message", "type", "param", "code"}
        error = error["message"]
    assert isinstance(error, str)
    return error


def send(server: Any, path: str, data: bytes, kind: str = "application/json") -> requests.Response:
    return requests.post(server.http_url + path, data=data, headers={"Content-Type": kind}, timeout=60)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b'{"model": "x", ', "not valid JSON"),
        (b"\xff\xfe{}", "not valid JSON"),
        (b"[" * 100_000, "brackets inside each other"),
        (b"", "the body is empty"),
        (b"[1, 2]", "must be a JSON object"),
        (b'"text"', "must be a JSON object"),
        (b"{}", "is missing"),
    ],
)
def test_bodies_that_are_no_request(server: Any, data: bytes, expected: str) -> None:
    for path in paths(server):
        response = send(server, path, data)
        assert response.status_code == 400, path
        assert expected in error_text(response), path


def test_another_content_type_is_explained(server: Any) -> None:
    for path in paths(server):
        response = send(server, path, b'{"prompt": "Hi"}', kind="text/plain")
        assert response.status_code == 400
        assert "Content-Type: application/json" in error_text(response)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "Hi"}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages"),
        ({"messages": [{"content": "Hi"}]}, "messages"),
        ({"messages": ["Hi"]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "messages"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"temperature": -0.1}, "temperature"),
        ({"top_p": 1.01}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"max_tokens": -2}, "max_tokens"),
        ({"max_tokens": 10**40}, "max_tokens"),
        ({"max_completion_tokens": -5}, "max_tokens"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"n": "two"}, "n"),
        ({"seed": 2**63}, "seed"),
        ({"stop": 5}, "stop"),
        ({"stop": ["x"] * 300}, "stop"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logprobs": 3}, "logprobs"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": [1]}, "logit_bias"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": 5}, "stream_options"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"model": 3}, "model"),
    ],
)
def test_chat_fields(server: Any, change: dict[str, Any], param: str) -> None:
    body = {"model": server.model_name, "messages": USER, "max_tokens": 1, **change}
    response = requests.post(f"{server.http_url}/v1/chat/completions", json=body, timeout=60)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert response.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": ["a", 1]}, "prompt"),
        ({"prompt": [True]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [10**9]}, "prompt"),
        ({"prompt": [10**30]}, "prompt"),
        ({"prompt": {"text": "Hi"}}, "prompt"),
        ({"logprobs": -1}, "logprobs"),
        ({"logprobs": 21}, "logprobs"),
        ({"suffix": "end"}, "suffix"),
        ({"suffix": "end", "echo": True, "logprobs": 1}, "suffix"),
        ({"echo": True, "prompt": [10**9]}, "prompt"),
        ({"best_of": 2}, "best_of"),
        ({"logit_bias": {"99999999": 1}}, "logit_bias"),
    ],
)
def test_completion_fields(server: Any, change: dict[str, Any], param: str) -> None:
    body = {"model": server.model_name, "prompt": "Hi", "max_tokens": 1, **change}
    response = requests.post(f"{server.http_url}/v1/completions", json=body, timeout=60)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/completions", '"prompt": "\\ud800"'),
        ("/v1/completions", '"prompt": ["a", "\\ud800"], "echo": true'),
        ("/v1/completions", '"prompt": "a", "stop": "\\ud800"'),
        ("/v1/chat/completions", '"messages": [{"role": "user", "content": "\\ud800"}]'),
        ("/v1/completions", '"prompt": "a", "grammar": "\\ud800"'),
        ("/v2/models/{model}/generate", '"text_input": "\\ud800"'),
        ("/v2/models/{model}/generate", '"text_input": "a", "id": "\\ud800"'),
        ("/predict", '"prompt": "\\ud800"'),
    ],
)
def test_a_lone_surrogate_is_refused(server: Any, path: str, fields: str) -> None:
    data = f'{{"model": "{server.model_name}", {fields}}}'.encode()
    response = send(server, path.format(model=server.model_name), data)
    assert response.status_code == 400
    assert "valid Unicode text" in error_text(response)


def test_a_prompt_longer_than_the_context(server: Any) -> None:
    text = "word " * (server.context_tokens + 10)
    model = server.model_name
    for path, body in (
        ("/v1/completions", {"model": model, "prompt": text}),
        ("/v1/chat/completions", {"model": model, "messages": [{"role": "user", "content": text}]}),
        (f"/v2/models/{model}/generate", {"text_input": text}),
        ("/predict", {"prompt": text}),
    ):
        response = requests.post(server.http_url + path, json=body, timeout=60)
        assert response.status_code == 400
        assert str(server.context_tokens) in error_text(response)


def test_unknown_routes_and_methods(server: Any) -> None:
    missing = requests.post(f"{server.http_url}/v1/nothing", json={}, timeout=60)
    assert (missing.status_code, "/v1/nothing" in missing.json()["error"]["message"]) == (404, True)
    wrong = requests.get(f"{server.http_url}/predict", timeout=60)
    assert (wrong.status_code, "GET" in wrong.json()["error"]) == (405, True)


def test_others_lose_nothing_while_bad_requests_come_in(server: Any) -> None:
    good = {"model": server.model_name, "prompt": "1, 2, 3, 4, 5, 6,", "max_tokens": 24, "temperature": 0}
    bad = ({**good, "prompt": [10**9]}, {**good, "temperature": "hot"}, {"prompt": 5})

    def ask(body: Any) -> requests.Response:
        return requests.post(f"{server.http_url}/v1/completions", json=body, timeout=120)

    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(ask, good) for _ in range(4)]
        refusals = [pool.submit(ask, bad[i % 3]) for i in range(30)]
        assert {refusal.result().status_code for refusal in refusals} == {400}
        texts = [answer.result().json()["choices"][0]["text"] for answer in answers]
    assert all("7" in text for text in texts)
