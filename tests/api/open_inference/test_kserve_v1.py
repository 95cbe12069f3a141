"""KServe's V1 protocol against a running server with a real model."""

from __future__ import annotations

import http.client
import json
import subprocess
import threading
import time
from typing import Any

import httpx
import pytest
import requests
from kserve import InferenceRESTClient
from kserve.inference_client import RESTConfig
from occupied_server import ENDLESS, ask, assert_freed, stream, wait_until_running
from repeatable import repeats
from server_process import Server

COUNTING = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12,"
QUESTION = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 24}


def url(server: Server, model: str | None = None) -> str:
    return f"{server.http_url}/v1/models/{model or server.model_name}:predict"


def predict(server: Server, *instances: Any) -> list[Any]:
    response = requests.post(url(server), json={"instances": instances}, timeout=120)
    assert response.status_code == 200, response.text
    predictions: list[Any] = response.json()["predictions"]
    return predictions


def refused(server: Server, body: bytes, kind: str = "application/json") -> str:
    """The message of a 400 in V1's form."""
    response = requests.post(url(server), data=body, headers={"Content-Type": kind}, timeout=60)
    assert response.status_code == 400, response.text
    assert list(response.json()) == ["error"]
    message: str = response.json()["error"]
    return message


def test_strings_prompts_and_messages_in_one_call(server: Server) -> None:
    text, prompt, chat = predict(
        server, COUNTING, {"prompt": COUNTING, **GREEDY}, {"messages": QUESTION, **GREEDY}
    )
    assert set(text) == {"text", "finish_reason", "usage"}
    assert text["usage"]["completion_tokens"] <= 256
    assert "13" in prompt["text"]
    assert prompt["finish_reason"] == "length"
    usage = prompt["usage"]
    assert usage["completion_tokens"] == 24
    assert usage["total_tokens"] == usage["prompt_tokens"] + 24
    assert "Paris" in chat["text"]
    assert chat["usage"]["prompt_tokens"] > len(QUESTION[0]["content"].split())


def test_each_instance_has_its_own_sampling(server: Server) -> None:
    short, long, stopped, numbers_as_text = predict(
        server,
        {"prompt": COUNTING, "temperature": 0, "max_tokens": 3},
        {"prompt": COUNTING, "temperature": 0, "max_tokens": 9},
        {"prompt": COUNTING, "temperature": 0, "max_tokens": 60, "stop": ["15"]},
        {"prompt": COUNTING, "temperature": "0", "max_tokens": "3"},
    )
    assert [p["usage"]["completion_tokens"] for p in (short, long)] == [3, 9]
    assert long["text"].startswith(short["text"])
    assert stopped["finish_reason"] == "stop"
    assert "14" in stopped["text"]
    assert "15" not in stopped["text"]
    assert numbers_as_text == short


def test_the_seed_repeats_an_answer(server: Server) -> None:
    instance = {"prompt": "Once upon a time", "temperature": 1.2, "max_tokens": 16}
    first, second = predict(server, {**instance, "seed": 3}, {**instance, "seed": 4})
    assert first["text"] != second["text"]
    assert repeats(lambda: predict(server, {**instance, "seed": 3})[0]["text"])


def test_the_instances_of_a_call_run_as_one_batch(narrow_server: Server) -> None:
    """Two places: three instances can't come in together, and two leave none for others."""
    three = requests.post(url(narrow_server), json={"instances": ["a", "b", "c"]}, timeout=60)
    assert three.status_code == 400
    assert "3 prompts in one call, but at most 2 fit" in three.json()["error"]
    instance = {"prompt": COUNTING, "max_tokens": 100, "ignore_eos": True}
    answers: list[Any] = []
    call = threading.Thread(target=lambda: answers.extend(predict(narrow_server, instance, instance)))
    call.start()
    statuses = []
    while call.is_alive():
        statuses.append(ask(narrow_server).status_code)
        time.sleep(0.1)
    call.join()
    assert 429 in statuses
    assert [a["usage"]["completion_tokens"] for a in answers] == [100, 100]


def test_a_plain_curl(server: Server) -> None:
    """Its content type is that of a form."""
    body = json.dumps({"instances": [{"prompt": COUNTING, **GREEDY}]})
    answer = subprocess.run(
        ["curl", "-sS", "-d", body, url(server)], capture_output=True, text=True, check=True, timeout=60
    )
    assert "13" in json.loads(answer.stdout)["predictions"][0]["text"]


@pytest.mark.parametrize("time", [{}, {"time": "2026-01-01T00:00:00Z"}])
def test_a_structured_cloud_event_needs_no_time(server: Server, time: dict[str, str]) -> None:
    data = {"instances": [{"prompt": COUNTING, **GREEDY}]}
    event = {"specversion": "1.0", "id": "7", "source": "test", "type": "ask", "data": data, **time}
    headers = {"Content-Type": "application/cloudevents+json"}
    response = requests.post(url(server), data=json.dumps(event), headers=headers, timeout=60)
    assert response.status_code == 200, response.text
    assert "13" in response.json()["data"]["predictions"][0]["text"]


async def test_kserves_own_client(server: Server) -> None:
    client = InferenceRESTClient(RESTConfig(protocol="v1", timeout=60))
    try:
        assert await client.is_server_live(server.http_url)
        assert await client.is_model_ready(server.http_url, server.model_name)
        answer = await client.infer(
            server.http_url, {"instances": [{"messages": QUESTION, **GREEDY}]}, model_name=server.model_name
        )
        assert "Paris" in answer["predictions"][0]["text"]
        with pytest.raises(httpx.HTTPStatusError, match="instances must be a list"):
            await client.infer(server.http_url, {"instances": []}, model_name=server.model_name)
    finally:
        await client.close()


def test_the_models_are_listed(server: Server) -> None:
    listed = requests.get(f"{server.http_url}/v1/models", timeout=60).json()
    assert listed["models"] == [server.model_name]
    one = requests.get(f"{server.http_url}/v1/models/{server.model_name}", timeout=60).json()
    assert (one["name"], one["ready"]) == (server.model_name, True)


def test_an_unknown_model(server: Server) -> None:
    response = requests.post(url(server, "nope"), json={"instances": ["Hi"]}, timeout=60)
    assert response.status_code == 404
    assert "nope" in response.json()["error"]


@pytest.mark.parametrize("kind", ["application/json", "text/plain"])
@pytest.mark.parametrize("body", [b"", b"nonsense", b'{"instances": [', b"\xff\xfe{}", b"[" * 200])
def test_a_body_that_is_not_json(server: Server, body: bytes, kind: str) -> None:
    message = refused(server, body, kind)
    assert "not valid JSON" in message or "Unrecognized request format" in message
    assert "brackets inside each other" in refused(server, b"[" * 100_000, kind)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"{}", 'must be a JSON object {"instances": [...]}'),
        (b"[]", "must be a JSON object"),
        (b"3", "must be a JSON object"),
        (b"null", "must be a JSON object"),
        (b'{"instances": "Hi"}', "be a list"),
        (b'{"instances": {"prompt": "Hi"}}', "be a list"),
        (b'{"instances": []}', "at least one element"),
        (b'{"instances": ["Hi"], "parameters": {}}', "unknown field 'parameters'"),
        (b'{"instances": ["Hi", 3]}', "instances[1] must be a string or an object"),
        (b'{"instances": ["Hi", ""]}', "instances[1]: the prompt is empty"),
        (b'{"instances": [{}]}', "instances[0] must have either prompt or messages"),
        (b'{"instances": [{"prompt": "Hi", "messages": []}]}', "either prompt or messages"),
        (b'{"instances": [{"prompt": 3}]}', "instances[0]: prompt must be a string"),
        (b'{"instances": [{"prompt": "Hi", "max_token": 3}]}', "unknown field 'max_token'"),
        (b'{"instances": [{"prompt": "Hi", "temperature": "hot"}]}', "instances[0]: temperature"),
        (b'{"instances": [{"prompt": "Hi", "max_tokens": -2}]}', "max_tokens must be between 0 and"),
        (b'{"instances": [{"messages": []}]}', "instances[0]: messages is empty"),
        (b'{"instances": [{"messages": "Hi"}]}', "messages must be a list"),
        (b'{"instances": [{"messages": [{"role": "user", "content": 3}]}]}', "content must be a string"),
    ],
)
def test_bad_requests(server: Server, body: bytes, expected: str) -> None:
    for kind in ("application/json", "text/plain"):
        assert expected in refused(server, body, kind)


def test_a_lone_surrogate(server: Server) -> None:
    for field in ('"prompt": "\\ud800"', '"messages": [{"role": "user", "content": "\\ud800"}]'):
        body = f'{{"instances": [{{{field}}}]}}'.encode()
        assert "Unicode" in refused(server, body, "text/plain")
        assert refused(server, body)


def test_a_prompt_longer_than_the_context(server: Server) -> None:
    text = "word " * (server.context_tokens + 10)
    for instance in (text, {"messages": [{"role": "user", "content": text}]}):
        message = refused(server, json.dumps({"instances": ["Hi", instance]}).encode())
        assert f"the context holds {server.context_tokens}" in message


def test_a_full_queue(narrow_server: Server) -> None:
    with stream(narrow_server), stream(narrow_server):
        response = requests.post(url(narrow_server), json={"instances": ["Hi"]}, timeout=60)
    assert response.status_code == 429
    assert int(response.headers["Retry-After"]) >= 1
    assert "the limit" in response.json()["error"]


def test_a_client_that_leaves_frees_its_sequences(narrow_server: Server) -> None:
    instance = {"prompt": "The sea", "max_tokens": ENDLESS, "ignore_eos": True}
    connection = http.client.HTTPConnection(narrow_server.http_url.removeprefix("http://"), timeout=60)
    path = f"/v1/models/{narrow_server.model_name}:predict"
    connection.request("POST", path, json.dumps({"instances": [instance]}))
    wait_until_running(narrow_server)
    assert_freed(narrow_server, connection.close)
