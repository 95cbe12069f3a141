"""Embeddings and reranking over HTTP, as clients ask for them: servers on tiny real models."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import httpx
import numpy as np
import openai
import pytest
from kserve import InferenceGRPCClient, InferInput, InferRequest
from server_process import Server, running_server, started_server
from tiny_models import WIDTH, TinyModel, bert_score, bert_states, tiny_bert, tiny_llama, unit

CLOSE = 2e-3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("embeddings")


@pytest.fixture(scope="module")
def bert(folder: Path) -> TinyModel:
    return tiny_bert(folder / "bert.gguf", gguf.PoolingType.MEAN)


@pytest.fixture(scope="module")
def embedder(platform: str, bert: TinyModel, folder: Path) -> Iterator[Server]:
    with running_server(bert.path, folder / "bert.log", "--platform", platform) as server:
        yield server


@pytest.fixture(scope="module")
def reranking(folder: Path) -> TinyModel:
    return tiny_bert(folder / "rank.gguf", gguf.PoolingType.RANK, labels=1)


@pytest.fixture(scope="module")
def reranker(platform: str, reranking: TinyModel, folder: Path) -> Iterator[Server]:
    with running_server(reranking.path, folder / "rank.log", "--platform", platform) as server:
        yield server


def post(server: Server, path: str, **body: Any) -> httpx.Response:
    # httpx itself can't send a lone surrogate.
    content = json.dumps({"model": server.model_name, **body})
    headers = {"content-type": "application/json"}
    return httpx.post(server.http_url + path, content=content, headers=headers, timeout=60)


def error(response: httpx.Response, status: int = 400) -> dict[str, Any]:
    assert response.status_code == status, response.text
    answer: dict[str, Any] = response.json()["error"]
    return answer


def expected(model: TinyModel, tokens: list[int]) -> Any:
    return unit(bert_states(model, tokens).mean(0))


def test_the_openai_client(embedder: Server, bert: TinyModel) -> None:
    for prefix in ("/v1", "/openai/v1"):
        client = openai.OpenAI(base_url=embedder.http_url + prefix, api_key="none", max_retries=0)
        answer = client.embeddings.create(model=embedder.model_name, input=["a", "b c"])
        assert [item.index for item in answer.data] == [0, 1]
        # [CLS] a [SEP] and [CLS] b c [SEP]
        for item, tokens in zip(answer.data, ([2, 4, 3], [2, 5, 6, 3]), strict=True):
            assert np.abs(np.array(item.embedding) - expected(bert, tokens)).max() < CLOSE
        assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (7, 7)
        assert answer.model == embedder.model_name


def test_both_encodings_hold_the_same_numbers(embedder: Server) -> None:
    floats = post(embedder, "/v1/embeddings", input="a b", encoding_format="float").json()
    packed = post(embedder, "/v1/embeddings", input="a b", encoding_format="base64").json()
    plain = post(embedder, "/v1/embeddings", input="a b").json()
    assert floats["data"] == plain["data"]
    assert floats["object"] == "list"
    assert floats["data"][0]["object"] == "embedding"
    decoded = np.frombuffer(base64.b64decode(packed["data"][0]["embedding"]), "<f4")
    assert len(decoded) == WIDTH
    assert np.allclose(decoded, floats["data"][0]["embedding"], atol=1e-6)


def test_token_ids(embedder: Server, bert: TinyModel) -> None:
    one = post(embedder, "/v1/embeddings", input=[2, 4, 3]).json()["data"]
    two = post(embedder, "/v1/embeddings", input=[[2, 4, 3], [2, 5, 3]]).json()["data"]
    assert [len(one), len(two)] == [1, 2]
    assert np.abs(np.array(two[1]["embedding"]) - expected(bert, [2, 5, 3])).max() < CLOSE


def test_a_thousand_texts_in_one_call(embedder: Server) -> None:
    answer = post(embedder, "/v1/embeddings", input=["a", "b"] * 500).json()
    found = np.array([item["embedding"] for item in answer["data"]])
    assert found.shape == (1000, WIDTH)
    assert np.allclose(found[::2], found[0], atol=1e-4)
    assert not np.allclose(found[0], found[1], atol=1e-2)


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"input": ""}, "input", "empty"),
        ({"input": []}, "input", "not empty"),
        ({"input": [""]}, "input", "empty"),
        ({"input": {"a": 1}}, "input", "must be a text"),
        ({"input": ["a", 1]}, "input", "must be a text"),
        ({"input": [2, 100_000]}, "prompt", "outside the vocabulary"),
        ({"input": "\ud800"}, "input", "Unicode"),
        ({"input": "a " * 300}, "input", "at most 256 fit"),
        ({"input": "a", "dimensions": 65}, "dimensions", "have 64 dimensions"),
        ({"input": "a", "dimensions": 0}, "dimensions", "greater than or equal to 1"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format", "'float' or 'base64'"),
        ({}, "input", "missing"),
        ({"input": ["a"] * 2049}, "input", "at most 2048"),
    ],
)
def test_bad_input(embedder: Server, body: dict[str, Any], param: str, words: str) -> None:
    found = error(post(embedder, "/v1/embeddings", **body))
    assert (found["param"], found["type"]) == (param, "invalid_request_error")
    assert words in found["message"]


def test_fewer_dimensions_are_the_first_ones_at_length_one(embedder: Server) -> None:
    """As models are trained to be cut: https://arxiv.org/abs/2205.13147."""
    whole, cut, same = (
        np.array(post(embedder, "/v1/embeddings", input="a b", **wanted).json()["data"][0]["embedding"])
        for wanted in ({}, {"dimensions": 8}, {"dimensions": WIDTH})
    )
    assert len(cut) == 8
    np.testing.assert_allclose(cut, unit(whole[:8]), atol=CLOSE)
    np.testing.assert_allclose(same, whole, atol=CLOSE)


def test_an_unknown_model(embedder: Server) -> None:
    assert error(post(embedder, "/v1/embeddings", model="other", input="a"), 404)["code"] == "model_not_found"


def test_text_is_not_to_be_had_from_an_embedding_model(embedder: Server) -> None:
    chat = post(embedder, "/v1/chat/completions", messages=[{"role": "user", "content": "a"}])
    assert "use /v1/embeddings, or start the server with --pooling none" in error(chat)["message"]
    assert "/v1/embeddings" in error(post(embedder, "/v1/completions", prompt="a"))["message"]
    generate = httpx.post(
        f"{embedder.http_url}/v2/models/{embedder.model_name}/generate", json={"text_input": "a"}
    )
    assert generate.status_code == 400
    assert "/v1/embeddings" in generate.json()["error"]
    assert "is a reranker" not in error(post(embedder, "/v1/rerank", query="a", documents=["b"]))["message"]


def test_embeddings_are_not_to_be_had_from_a_text_model(server: Server) -> None:
    for path, body in (
        ("/v1/embeddings", {"input": "a"}),
        ("/v1/rerank", {"query": "a", "documents": ["b"]}),
    ):
        found = error(post(server, path, **body))
        assert "start this one with --pooling mean, cls, last or rank" in found["message"]
        assert found["param"] == "model"


def test_kserve_v1(embedder: Server, bert: TinyModel) -> None:
    url = f"{embedder.http_url}/v1/models/{embedder.model_name}:predict"
    answer = httpx.post(url, json={"instances": ["a", {"prompt": "b"}]}).json()
    found = np.array(answer["predictions"])
    assert np.abs(found[0] - expected(bert, [2, 4, 3])).max() < CLOSE
    assert np.abs(found[1] - expected(bert, [2, 5, 3])).max() < CLOSE
    refused = httpx.post(url, json={"instances": [{"prompt": "b", "temperature": 1}]})
    assert refused.status_code == 400
    assert "nothing but prompt" in refused.json()["error"]


def test_kserve_v2(embedder: Server, bert: TinyModel) -> None:
    url = f"{embedder.http_url}/v2/models/{embedder.model_name}"
    metadata = httpx.get(url).json()
    assert [(tensor["name"], tensor["datatype"]) for tensor in metadata["outputs"]] == [
        ("embedding", "FP32"),
        ("prompt_tokens", "INT32"),
    ]
    tensor = {"name": "prompt", "shape": [2], "datatype": "BYTES", "data": ["a", "b c"]}
    answer = httpx.post(f"{url}/infer", json={"inputs": [tensor]}).json()
    outputs = {output["name"]: output for output in answer["outputs"]}
    assert outputs["embedding"]["shape"] == [2, WIDTH]
    assert outputs["embedding"]["datatype"] == "FP32"
    assert outputs["prompt_tokens"]["data"] == [3, 4]
    rows = np.array(outputs["embedding"]["data"]).reshape(2, WIDTH)
    assert np.abs(rows[1] - expected(bert, [2, 5, 6, 3])).max() < CLOSE


async def test_kserve_v2_over_grpc(embedder: Server, bert: TinyModel) -> None:
    async with InferenceGRPCClient(embedder.grpc_url) as client:
        made = InferInput("prompt", [2], "BYTES", data=["a", "b c"])
        answer = await client.infer(InferRequest(embedder.model_name, [made]))
    outputs = {output.name: output.as_numpy() for output in answer.outputs}
    assert outputs["embedding"].shape == (2, WIDTH)
    for row, tokens in zip(outputs["embedding"], ([2, 4, 3], [2, 5, 6, 3]), strict=True):
        assert np.abs(row - expected(bert, tokens)).max() < CLOSE
    assert outputs["prompt_tokens"].tolist() == [3, 4]


def test_rerank(reranker: Server, reranking: TinyModel) -> None:
    documents = ["b", "c d", "e", "f g h"]
    scores = []
    for document in documents:
        ids = [4 + ord(letter) - ord("a") for letter in document.split()]
        scores.append(float(bert_score(reranking, [2, 4, 3, *ids, 3])[0]))
    for prefix in ("/v1", "/openai/v1"):
        answer = post(reranker, f"{prefix}/rerank", query="a", documents=documents).json()
        assert [result["index"] for result in answer["results"]] == sorted(
            range(len(documents)), key=lambda i: -scores[i]
        )
        for result in answer["results"]:
            assert result["relevance_score"] == pytest.approx(scores[result["index"]], abs=1e-2)
            assert "document" not in result
        assert answer["usage"] == {"prompt_tokens": 4 * 4 + 7, "total_tokens": 4 * 4 + 7}
        assert (answer["object"], answer["model"]) == ("list", reranker.model_name)


def test_rerank_with_documents_and_a_limit(reranker: Server) -> None:
    body = {"query": "a", "documents": ["b", {"text": "c"}, "d"], "top_n": 2, "return_documents": True}
    results = post(reranker, "/v1/rerank", **body).json()["results"]
    assert len(results) == 2
    for result in results:
        assert result["document"] == {"text": "bcd"[result["index"]]}
    assert len(post(reranker, "/v1/rerank", query="a", documents=["b"], top_n=9).json()["results"]) == 1


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"documents": ["b"]}, "query"),
        ({"query": "", "documents": ["b"]}, "query"),
        ({"query": "a"}, "documents"),
        ({"query": "a", "documents": []}, "documents"),
        ({"query": "a", "documents": [1]}, "documents[0]"),
        ({"query": "a", "documents": ["b"], "top_n": 0}, "top_n"),
        ({"query": "a", "documents": ["b " * 300]}, "input"),
    ],
)
def test_bad_rerank_requests(reranker: Server, body: dict[str, Any], param: str) -> None:
    found = error(post(reranker, "/v1/rerank", **body))
    assert found["param"] == param, found


def test_a_reranker_gives_no_embeddings(reranker: Server) -> None:
    assert "use /v1/rerank" in error(post(reranker, "/v1/embeddings", input="a"))["message"]
    chat = post(reranker, "/v1/chat/completions", messages=[{"role": "user", "content": "a"}])
    assert "use /v1/rerank" in error(chat)["message"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "is an encoder, which can't generate text: start it with --pooling mean or cls"),
        (("--pooling", "rank"), "has no classification head"),
    ],
)
def test_a_start_that_can_not_work(tmp_path: Path, options: tuple[str, ...], words: str) -> None:
    model = tiny_bert(tmp_path / "bert.gguf", None)
    with started_server(model.path, tmp_path / "log", *options) as server:
        assert server.process.wait(60) == 1
        assert words in server.log.read_text()


def test_the_option_wins_over_the_file(tmp_path: Path) -> None:
    model = tiny_llama(tmp_path / "llama.gguf", gguf.PoolingType.LAST)
    with running_server(model.path, tmp_path / "log", "--pooling", "none", context_tokens=128) as server:
        answer = post(server, "/v1/completions", prompt="abc", max_tokens=4, temperature=0, ignore_eos=True)
        assert answer.json()["usage"]["completion_tokens"] == 4
