"""`/tokenize`, `/detokenize` and `/apply-template`, in the forms of llama-server and of vLLM."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from server_process import Server

TEXT = "Grüße, \U0001f30d! <|im_end|>"
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
PROMPT = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def post(server: Server) -> Any:
    def post(path: str, status: int = 200, **body: Any) -> Any:
        answer = httpx.post(f"{server.http_url}/{path}", json=body, timeout=60)
        assert answer.status_code == status, answer.text
        return answer.json()

    return post


def test_llama_servers_form_goes_there_and_back(post: Any) -> None:
    tokens = post("tokenize", content=TEXT)["tokens"]
    assert 2 in tokens  # <|im_end|>
    assert 2 not in post("tokenize", content=TEXT, parse_special=False)["tokens"]
    assert post("detokenize", tokens=tokens) == {"content": TEXT, "prompt": TEXT}
    mixed = post("tokenize", content=[2, "Hi", "there"])["tokens"]
    assert mixed == [
        2,
        *post("tokenize", content="Hi")["tokens"],
        *post("tokenize", content="there")["tokens"],
    ]
    assert post("detokenize", tokens=[])["content"] == ""


def test_pieces_are_text_or_bytes(post: Any) -> None:
    pieces = post("tokenize", content=TEXT, with_pieces=True)["tokens"]
    assert {"id": 2, "piece": "<|im_end|>"} in pieces
    raw = [entry["piece"] for entry in pieces]
    assert any(isinstance(piece, list) for piece in raw)  # the globe is several tokens
    spelled = b"".join(piece.encode() if isinstance(piece, str) else bytes(piece) for piece in raw)
    assert spelled.decode() == TEXT


def test_vllms_form(post: Any, server: Server) -> None:
    answer = post("tokenize", model=server.model_name, prompt="Hello there", return_token_strs=True)
    assert answer["count"] == len(answer["tokens"]) == len(answer["token_strs"])
    assert answer["max_model_len"] == server.context_tokens
    assert "".join(answer["token_strs"]) == "Hello there"
    assert answer["tokens"] == post("tokenize", content="Hello there")["tokens"]
    assert post("tokenize", prompt="Hello there")["token_strs"] is None


def test_a_conversation_is_what_a_chat_would_read(post: Any) -> None:
    assert post("apply-template", messages=MESSAGES) == {"prompt": PROMPT}
    answer = post("tokenize", messages=MESSAGES, add_special_tokens=False)
    assert answer["tokens"] == post("tokenize", content=PROMPT)["tokens"]
    chat = post("v1/chat/completions", messages=MESSAGES, max_tokens=1)
    assert answer["count"] == chat["usage"]["prompt_tokens"]
    assert post("apply-template", messages=MESSAGES, add_generation_prompt=False)["prompt"] == PROMPT.replace(
        "<|im_start|>assistant\n", ""
    )


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("tokenize", {}, "content"),
        ("tokenize", {"content": "a", "prompt": "b"}, "prompt"),
        ("tokenize", {"content": [True]}, "content"),
        ("tokenize", {"content": {"text": "a"}}, "content"),
        ("tokenize", {"prompt": 5}, "prompt"),
        ("tokenize", {"messages": "Hi"}, "messages"),
        ("tokenize", {"messages": MESSAGES, "add_special_tokens": True}, "add_special_tokens"),
        ("tokenize", {"messages": MESSAGES, "chat_template": "x"}, "chat_template"),
        ("tokenize", {"content": "a" * 2_000_000}, "content"),
        ("detokenize", {}, "tokens"),
        ("detokenize", {"tokens": [10**6]}, "tokens"),
        ("detokenize", {"tokens": [-1]}, "tokens"),
        ("detokenize", {"tokens": ["a"]}, "tokens[0]"),
        ("apply-template", {"messages": []}, "messages"),
        ("apply-template", {"messages": MESSAGES, "documents": [{}]}, "documents"),
    ],
)
def test_what_cant_be_read(post: Any, path: str, body: dict[str, Any], param: str) -> None:
    assert post(path, 400, **body)["error"]["param"] == param


def test_an_unknown_model(post: Any) -> None:
    for path, body in (("tokenize", {"content": "a"}), ("detokenize", {"tokens": [1]})):
        assert post(path, 404, model="other", **body)["error"]["code"] == "model_not_found"
