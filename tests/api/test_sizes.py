"""What a request costs is known from its sizes: too large a one is refused before anything is made of it."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}
TEXT = {"model": "tiny", "prompt": "Hi"}
GENERATE = "/v2/models/tiny/generate"


@pytest.fixture
def max_body() -> int:
    return 8 * 2**20


@pytest.fixture
def no_work(scripted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokenizing anything, or a request for the engine, fails the test."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("something was done for a request that is too large")

    monkeypatch.setattr(scripted.engine, "tokenize_segments", refuse)
    monkeypatch.setattr(scripted.engine, "submit_all", refuse)


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


REFUSED: list[tuple[str, Any, str]] = [
    ("/v1/completions", {**TEXT, "n": 128, "prompt": [[1]] * 3}, "at most 272 fit"),
    ("/v1/completions", {**TEXT, "n": 128, "prompt": [[1]] * 60_000}, "at most 272 fit"),
    ("/v1/completions", {**TEXT, "prompt": ["a"] * 50_000}, "at most 272 fit"),
    ("/v1/completions", {**TEXT, "prompt": "<|im_start|>" * 100_000}, "too long for 512"),
    ("/v1/completions", {**TEXT, "prompt": ["x" * 3000, "y" * 3000]}, "too long for 512"),
    (
        "/v1/chat/completions",
        {**CHAT, "messages": [{"role": "tool", "content": "x"}] * 30_000},
        "30000 entries",
    ),
    (
        "/v1/chat/completions",
        {**CHAT, "messages": [{"role": "user", "content": "x" * 10**6}]},
        "too long for 512",
    ),
    (
        "/v1/chat/completions",
        {**CHAT, "messages": [{"role": "user", "content": [{"type": "text", "text": ""}] * 10_000}]},
        "too long for 512",
    ),
    (GENERATE, {"text_input": "x" * 10**6}, "too long for 512"),
    (GENERATE, {"text_input": "Hi", "id": "x" * 10**6}, "at most 256 characters"),
    ("/predict", {"prompt": "x" * 10**6}, "too long for 512"),
    ("/v1/completions", {**TEXT, "stop": ["x" * 500_000] * 16}, "16384 characters together"),
    ("/v1/completions", {**TEXT, "stop": ["x"] * 300}, "at most 256 strings"),
    ("/v1/completions", {**TEXT, "logit_bias": "[" * 1500}, "must be a JSON object of token ids"),
    ("/v1/chat/completions", {**CHAT, "guided_regex": "a" * 10**6}, "longer than 262144 characters"),
    ("/v1/completions", {**TEXT, "suffix": deep(300)}, "brackets inside each other"),
    ("/v1/completions", {**TEXT, "metadata": [1] * 600_000}, "over 500000 values"),
    ("/v1/completions", {**TEXT, "metadata": [[]] * 70_000}, "over 65536 lists and objects"),
    ("/v1/completions", {**TEXT, "metadata": [{"a": 1, "b": 2}] * 50_000}, "over 65536 members"),
]


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize(("path", "body", "expected"), REFUSED, ids=range(len(REFUSED)))
def test_refused_before_any_work(scripted: Any, path: str, body: Any, expected: str) -> None:
    answer = scripted.post(path, body)
    assert answer.status_code == 400
    assert expected in answer.text
    assert len(answer.content) < 2000


def test_biases_times_answers(scripted: Any) -> None:
    bias = {str(token): 1 for token in range(50_000)}
    assert scripted.post("/v1/completions", {**TEXT, "logit_bias": bias, "n": 1}).status_code == 200
    answer = scripted.post("/v1/completions", {**TEXT, "logit_bias": bias, "n": 100})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "logit_bias")
    assert "50000 entries for each of 100 answers" in answer.text


def test_refusing_takes_no_memory_to_speak_of(scripted: Any) -> None:
    """The prompts and the choices are not multiplied out."""
    body = {**TEXT, "n": 128, "prompt": [[1]] * 10_000}
    scripted.post("/v1/completions", body)
    tracemalloc.start()
    try:
        assert scripted.post("/v1/completions", body).status_code == 400
        assert tracemalloc.get_traced_memory()[1] < 20 * 2**20
    finally:
        tracemalloc.stop()


def test_what_is_said_of_a_huge_value_is_short(scripted: Any) -> None:
    for body in (
        {**TEXT, "temperature": "x" * 10**6},
        {**TEXT, "model": "x" * 10**6},
        {**TEXT, "n": [1] * 10**5},
    ):
        answer = scripted.post("/v1/completions", body)
        assert answer.status_code in (400, 404)
        assert len(answer.content) < 2500


def test_text_full_of_brackets_is_only_text(scripted: Any) -> None:
    scripted.engine.context_tokens = 10**7
    body = {**TEXT, "prompt": '{"a": [1, 2], "b": "c\\\\"}, ' * 60_000}
    assert scripted.post("/v1/completions", body).status_code == 200
    assert scripted.post("/v1/completions", {**TEXT, "user": deep(50)}).status_code == 200
