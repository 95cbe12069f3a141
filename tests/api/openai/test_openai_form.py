"""The form of OpenAI's answers on the wire, chunk by chunk."""

from __future__ import annotations

import json
from typing import Any

import pytest
from scripted_engine import FOREVER, say

from predictor.engine.request import Delta, FinishReason, TokenLogprob
from predictor.errors import EngineFailure, NotReady, QueueFull

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}
TEXT = {"model": "tiny", "prompt": "Hi"}


def events(response: Any) -> list[Any]:
    """The JSON of each event; checks the framing on the way."""
    assert response.headers["content-type"].startswith("text/event-stream")
    *blocks, rest = response.text.split("\n\n")
    assert rest == ""
    assert all(block.startswith("data: ") and "\n" not in block for block in blocks)
    return [block[6:] if block == "data: [DONE]" else json.loads(block[6:]) for block in blocks]


def test_a_chat_stream_has_role_text_reason_usage_and_done(scripted: Any) -> None:
    body = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}
    *chunks, done = events(scripted.post("/v1/chat/completions", body))
    assert done == "[DONE]"
    assert [chunk["choices"][0]["delta"] for chunk in chunks[:-1]] == [
        {"role": "assistant", "content": "", "refusal": None},
        {"content": "Hel"},
        {"content": "lo"},
        {},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks[:-1]] == [None, None, None, "stop"]
    assert all(chunk["usage"] is None for chunk in chunks[:-1])
    assert chunks[-1]["choices"] == []
    prompt = len("[user]Hi[assistant]")
    assert chunks[-1]["usage"] == {
        "prompt_tokens": prompt,
        "completion_tokens": 2,
        "total_tokens": prompt + 2,
        "prompt_tokens_details": {"cached_tokens": 3},
    }
    assert len({(chunk["id"], chunk["created"], chunk["object"], chunk["model"]) for chunk in chunks}) == 1
    assert chunks[0]["object"] == "chat.completion.chunk"


def test_without_include_usage_no_chunk_has_usage(scripted: Any) -> None:
    chunks = events(scripted.post("/v1/chat/completions", {**CHAT, "stream": True}))[:-1]
    assert not any("usage" in chunk for chunk in chunks)


def test_choices_of_one_stream_are_told_apart_by_index(scripted: Any) -> None:
    scripted.engine.scripts = [say("a", "b"), say("c", reason=FinishReason.LENGTH)]
    body = {**CHAT, "n": 2, "seed": 7, "stream": True, "stream_options": {"include_usage": True}}
    *chunks, usage, _ = events(scripted.post("/v1/chat/completions", body))
    texts = {0: "", 1: ""}
    reasons = {}
    for chunk in chunks:
        (choice,) = chunk["choices"]
        texts[choice["index"]] += choice["delta"].get("content", "")
        reasons[choice["index"]] = choice["finish_reason"]
    assert texts == {0: "ab", 1: "c"}
    assert reasons == {0: "stop", 1: "length"}
    assert usage["usage"]["completion_tokens"] == 3
    assert [request.params.seed for request in scripted.engine.requests] == [7, 8]


def test_a_chat_completion_counts_its_prompt_once(scripted: Any) -> None:
    answer = scripted.post("/openai/v1/chat/completions", {**CHAT, "n": 3}).json()
    assert [choice["message"]["content"] for choice in answer["choices"]] == ["Hello"] * 3
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert answer["object"] == "chat.completion"
    assert answer["usage"]["prompt_tokens"] == len("[user]Hi[assistant]")
    assert answer["usage"]["completion_tokens"] == 6
    assert answer["usage"]["prompt_tokens_details"] == {"cached_tokens": 3}


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("ab", [(97, 98)]),
        (["a", "b"], [(97,), (98,)]),
        ([5, 6], [(5, 6)]),
        ([[5, 6], [7]], [(5, 6), (7,)]),
    ],
)
def test_every_form_of_prompt(scripted: Any, prompt: Any, expected: Any) -> None:
    answer = scripted.post("/v1/completions", {**TEXT, "prompt": prompt}).json()
    assert [request.prompt for request in scripted.engine.requests] == expected
    assert [choice["text"] for choice in answer["choices"]] == ["Hello"] * len(expected)
    assert {request.params.max_tokens for request in scripted.engine.requests} == {16}


def test_max_completion_tokens_wins(scripted: Any) -> None:
    scripted.post("/v1/chat/completions", {**CHAT, "max_tokens": 5, "max_completion_tokens": 7})
    assert scripted.engine.requests[0].params.max_tokens == 7
    scripted.post("/v1/chat/completions", CHAT)
    assert scripted.engine.requests[0].params.max_tokens is None


def test_a_completion_stream_with_echo(scripted: Any) -> None:
    body = {**TEXT, "echo": True, "stream": True}
    *chunks, done = events(scripted.post("/v1/completions", body))
    assert done == "[DONE]"
    assert [chunk["choices"][0]["text"] for chunk in chunks] == ["Hi", "Hel", "lo", ""]
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert scripted.post("/v1/completions", {**TEXT, "echo": True}).json()["choices"][0]["text"] == "HiHello"


def test_logprobs_of_tokens_that_share_a_character(scripted: Any) -> None:
    euro = "\u20ac".encode()
    top = TokenLogprob(9, b"x", float("-inf"))
    entries = (
        TokenLogprob(1, b"a", -0.5, (top,)),
        TokenLogprob(2, euro[:1], -1.0),
        TokenLogprob(3, euro[1:], 0),
    )
    scripted.engine.scripts = [
        [Delta("a", entries[:1], 1), Delta("\u20ac", entries[1:], 3), Delta("", (), 3, FinishReason.STOP)]
    ]
    chat = scripted.post("/v1/chat/completions", {**CHAT, "logprobs": True, "top_logprobs": 1}).json()
    content = chat["choices"][0]["logprobs"]["content"]
    assert content[0] == {
        "token": "a",
        "logprob": -0.5,
        "bytes": [97],
        "top_logprobs": [{"token": "x", "logprob": -9999.0, "bytes": [120]}],
    }
    assert [byte for entry in content for byte in entry["bytes"]] == list(b"a" + euro)
    whole = scripted.post("/v1/completions", {**TEXT, "logprobs": 1}).json()["choices"][0]["logprobs"]
    assert whole["text_offset"] == [0, 1, 1]
    assert whole["token_logprobs"] == [-0.5, -1.0, 0]
    assert whole["top_logprobs"][0] == {"x": -9999.0, "a": -0.5}
    streamed = events(scripted.post("/v1/completions", {**TEXT, "logprobs": 1, "stream": True}))[:-1]
    offsets = [chunk["choices"][0]["logprobs"]["text_offset"] for chunk in streamed]
    assert offsets == [[0], [1, 1], []]


def test_an_error_before_the_stream_is_an_http_error(scripted: Any) -> None:
    scripted.engine.refusal = QueueFull("the queue is full", retry_after=4)
    for stream in (True, False):
        response = scripted.post("/v1/chat/completions", {**CHAT, "stream": stream})
        assert response.status_code == 429
        assert response.headers["retry-after"] == "4"
        assert response.json()["error"]["message"] == "the queue is full"


@pytest.mark.parametrize(
    ("error", "message", "kind"),
    [
        (EngineFailure("decode failed"), "decode failed", "server_error"),
        (NotReady("shutting down"), "shutting down", "service_unavailable_error"),
        (RuntimeError("secret"), "internal error; the server's log has the details", "server_error"),
    ],
)
def test_an_error_in_mid_stream_is_the_last_event(
    scripted: Any, error: Exception, message: str, kind: str
) -> None:
    scripted.engine.scripts = [[Delta("a"), error], [Delta("b"), FOREVER]]
    response = scripted.post("/v1/chat/completions", {**CHAT, "stream": True, "n": 2})
    assert response.status_code == 200
    last = events(response)[-1]
    assert last == {"error": {"message": message, "type": kind, "param": None, "code": last["error"]["code"]}}
    assert all(stream.cancelled.is_set() for stream in scripted.engine.streams)


def test_models_satisfy_openai_and_kserve(scripted: Any) -> None:
    for prefix in ("/v1", "/openai/v1"):
        listing = scripted.http.get(f"{prefix}/models").json()
        assert listing["models"] == ["tiny"]
        assert [(entry["id"], entry["object"]) for entry in listing["data"]] == [("tiny", "model")]
        model = scripted.http.get(f"{prefix}/models/tiny").json()
        assert (model["name"], model["ready"], model["id"]) == ("tiny", True, "tiny")
        unknown = scripted.http.get(f"{prefix}/models/nope")
        assert unknown.status_code == 404
        assert unknown.json()["error"]["code"] == "model_not_found"


def test_a_withdrawn_model_is_listed_but_not_ready(scripted: Any) -> None:
    scripted.models.withdraw_all()
    assert scripted.http.get("/v1/models").json()["models"] == ["tiny"]
    for response in (scripted.http.get("/v1/models/tiny"), scripted.post("/v1/chat/completions", CHAT)):
        assert response.status_code == 503
        assert response.headers["retry-after"] == "5"
        assert "shutting down" in response.json()["error"]["message"]
