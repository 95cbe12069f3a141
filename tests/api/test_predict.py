"""`POST /predict`, the original container's contract, against a running server with a real model."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests
from scripted_engine import ScriptedEngine

BODY = {
    "prompt": "What is the capital of France? Answer in one sentence.",
    "sys_msg": "You answer briefly.",
    "max_tokens": 24,
}


def post(server: Any, body: Any) -> requests.Response:
    return requests.post(f"{server.http_url}/predict", json=body, timeout=120)


def test_the_answer_is_a_llama_cpp_completion(server: Any) -> None:
    answer = post(server, {**BODY, "temperature": 0}).json()
    assert list(answer) == ["response"]
    completion = answer["response"]
    assert set(completion) == {"id", "object", "created", "model", "choices", "usage"}
    assert completion["id"].startswith("cmpl-")
    assert completion["object"] == "text_completion"
    assert set(completion["choices"][0]) == {"text", "index", "logprobs", "finish_reason"}
    assert "Paris" in completion["choices"][0]["text"]
    assert completion["choices"][0]["finish_reason"] in ("stop", "length")
    usage = completion["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def test_the_system_message_reaches_the_model(server: Any) -> None:
    with_message = post(server, BODY).json()["response"]["usage"]["prompt_tokens"]
    longer = {**BODY, "sys_msg": BODY["sys_msg"] + " " + "Be kind. " * 20}
    assert post(server, longer).json()["response"]["usage"]["prompt_tokens"] > with_message + 20
    without = {"prompt": BODY["prompt"], "max_tokens": 4}
    assert post(server, without).status_code == 200


def test_eight_clients_at_once(server: Any) -> None:
    """The original container aborts here."""
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: post(server, {**BODY, "temperature": 0}), range(8)))
    assert [answer.status_code for answer in answers] == [200] * 8
    assert all("Paris" in answer.json()["response"]["choices"][0]["text"] for answer in answers)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"sys_msg": "x"}, "prompt is missing"),
        ({"prompt": ""}, "the prompt is empty"),
        ({"prompt": 3}, "prompt: must be a valid string"),
        ({"prompt": "a", "max_tokens": "many"}, "max_tokens: must be a valid integer"),
    ],
)
def test_errors(server: Any, body: Any, expected: str) -> None:
    response = post(server, body)
    assert response.status_code == 400
    assert expected in response.json()["error"]


def test_a_model_without_a_template_gets_llama_2s_format(scripted: Any) -> None:
    engine: ScriptedEngine = scripted.engine
    scripted.models.get("tiny").chat_format = None
    scripted.post("/predict", {"prompt": "Hi", "sys_msg": "Be brief."})
    assert bytes(engine.requests[0].prompt) == b"[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi [/INST]"
    assert engine.requests[0].params.max_tokens == 1000
    scripted.post("/predict", {"prompt": "Hi"})
    assert bytes(engine.requests[0].prompt) == b"[INST] Hi [/INST]"


def test_the_models_own_template_is_used_where_there_is_one(scripted: Any) -> None:
    scripted.post("/predict", {"prompt": "Hi", "sys_msg": "Be brief."})
    assert bytes(scripted.engine.requests[0].prompt) == b"[system]Be brief.[user]Hi[assistant]"
