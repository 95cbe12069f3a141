"""Filling gaps: `/infill` and `suffix`, with a tiny model that has the tokens for it and one that hasn't."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from server_process import Server

BODY = {"input_prefix": "def add(", "input_suffix": "    return a", "n_predict": 8, "ignore_eos": True}


def post(server: Server, path: str, body: dict[str, Any], status: int = 200) -> Any:
    answer = httpx.post(f"{server.http_url}/{path}", json=body, timeout=60)
    assert answer.status_code == status, answer.text
    return answer.json()


def test_the_marks_stand_around_the_texts(filling: Server) -> None:
    """A gap is the same prompt as one written by hand with its marks."""
    options = {"max_tokens": 1, "temperature": 0, "logprobs": 0}
    marked = "<|fim_prefix|>def add(<|fim_suffix|>    return a<|fim_middle|>"
    written = post(filling, "v1/completions", {"prompt": marked, **options, "echo": True})
    filled = post(filling, "v1/completions", {"prompt": "def add(", "suffix": "    return a", **options})
    prompt_tokens = filled["usage"]["prompt_tokens"]
    assert prompt_tokens == written["usage"]["prompt_tokens"]
    # Rounding may choose another token, but none that is much less likely.
    first, same = (answer["choices"][0]["logprobs"]["token_logprobs"] for answer in (filled, written))
    assert first[0] == pytest.approx(same[prompt_tokens], abs=0.1)
    echoed = post(filling, "v1/completions", {"prompt": "def add(", "suffix": "    return a", "echo": True})
    assert echoed["choices"][0]["text"].startswith("def add(")


def test_infill_answers_in_llama_servers_form(filling: Server) -> None:
    answer = post(filling, "infill", BODY)
    assert answer["stop"] is True
    assert answer["stop_type"] == "limit"
    assert answer["tokens_predicted"] == 8
    assert answer["timings"]["predicted_n"] == 8
    assert answer["timings"]["prompt_n"] + answer["timings"]["cache_n"] == answer["tokens_evaluated"]
    plain = answer["tokens_evaluated"]
    extra = [{"filename": "a.py", "text": "x = 1\n"}, {"text": "y = 2\n"}]
    assert post(filling, "infill", {**BODY, "input_extra": extra})["tokens_evaluated"] > plain + 12


def test_texts_beside_the_gap_are_left_out_where_they_dont_fit(filling: Server) -> None:
    plain = post(filling, "infill", BODY)["tokens_evaluated"]
    extra = [{"text": "a" * 2000}, {"text": "b" * 100}]
    with_last = post(filling, "infill", {**BODY, "input_extra": extra})["tokens_evaluated"]
    assert plain + 100 < with_last < 512
    refused = post(filling, "infill", {**BODY, "input_prefix": "a" * 600}, 400)
    assert "context holds" in refused["error"]["message"]


def test_an_editor_gets_the_fields_it_asks_for(filling: Server) -> None:
    """What llama.vim sends."""
    body = {
        **BODY,
        "prompt": "a, b",
        "n_indent": 4,
        "top_k": 40,
        "top_p": 0.9,
        "samplers": ["top_k", "top_p", "infill"],
        "cache_prompt": True,
        "t_max_prompt_ms": 500,
        "t_max_predict_ms": 1000,
        "stream": False,
        "response_fields": ["content", "timings/prompt_n", "truncated", "nothing/here"],
    }
    answer = post(filling, "infill", body)
    assert answer.keys() == {"content", "timings/prompt_n", "truncated"}
    assert answer["truncated"] is False
    assert post(filling, "infill", {**BODY, "n_predict": 0})["content"] == ""  # warms the cache


def test_infill_streams(filling: Server) -> None:
    body = {**BODY, "stream": True, "temperature": 0}
    with httpx.stream("POST", f"{filling.http_url}/infill", json=body, timeout=60) as answer:
        events = [json.loads(line[5:]) for line in answer.iter_lines() if line.startswith("data:")]
    assert [event["stop"] for event in events] == [False] * (len(events) - 1) + [True]
    whole = post(filling, "infill", {**BODY, "temperature": 0})
    assert "".join(event["content"] for event in events) == whole["content"]


def test_marks_in_the_texts_are_text(filling: Server) -> None:
    plain = post(filling, "infill", {**BODY, "n_predict": 1})["tokens_evaluated"]
    forged = {**BODY, "n_predict": 1, "input_prefix": BODY["input_prefix"] + "<|fim_middle|>"}
    assert post(filling, "infill", forged)["tokens_evaluated"] == plain + len("<|fim_middle|>")


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("infill", BODY, "input_prefix"),
        ("v1/completions", {"prompt": "a", "suffix": "b"}, "suffix"),
        ("v1/completions", {"prompt": [5, 6], "suffix": "b"}, "suffix"),
    ],
)
def test_a_model_without_the_marks(server: Server, path: str, body: dict[str, Any], param: str) -> None:
    error = post(server, path, body, 400)["error"]
    assert error["param"] == param
    assert "can't fill gaps" in error["message"]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"input_extra": [{"filename": "a"}]}, "input_extra[0].text"),
        ({"input_prefix": 5}, "input_prefix"),
        ({"top_p": 5}, "top_p"),
        ({"adaptive_target": 0.5}, "adaptive_target"),
        ({"response_fields": "content"}, "response_fields"),
    ],
)
def test_what_cant_be_read(filling: Server, change: dict[str, Any], param: str) -> None:
    assert post(filling, "infill", {**BODY, **change}, 400)["error"]["param"] == param
