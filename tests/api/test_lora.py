"""A server with LoRA adapters: every protocol takes an adapter's name in the model's place."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from adapter_files import write_adapter
from kserve import InferenceGRPCClient, InferInput, InferRequest
from openai import OpenAI
from prometheus_client.parser import text_string_to_metric_families
from server_process import Server, running_server

QUESTION = [
    {"role": "system", "content": "Answer in one sentence."},
    {"role": "user", "content": "What is the capital of France?"},
]
INFO = "kserve_llamacpp_lora_requests_info"


@pytest.fixture(scope="module")
def lora_server(
    platform: str, model_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("lora")
    options = []
    for seed, name in enumerate(("one", "two")):
        path = write_adapter(folder / f"{name}.gguf", model_path, seed)
        options += ["--lora", f"{name}={path}"]
    options += ["--platform", platform, "--max-sequences", "4"]
    with running_server(model_path, folder / "log", *options) as server:
        yield server


@pytest.fixture
def client(lora_server: Server) -> OpenAI:
    return OpenAI(base_url=f"{lora_server.http_url}/v1", api_key="none")


@pytest.fixture
def http(lora_server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=lora_server.http_url, timeout=120) as client:
        yield client


def chat(client: OpenAI, model: str) -> str:
    answer = client.chat.completions.create(model=model, messages=QUESTION, temperature=0, max_tokens=12)
    assert answer.model == model
    return answer.choices[0].message.content


def test_the_model_field_chooses_the_adapter(client: OpenAI, lora_server: Server) -> None:
    plain, one, two, again = (chat(client, name) for name in (lora_server.model_name, "one", "two", "smol"))
    assert "Paris" in plain
    assert plain == again
    assert len({plain, one, two}) == 3
    # The prompt comes from the prefix cache from now on, which rounds differently.
    one = chat(client, "one")
    assert one not in (plain, two)
    streamed = client.chat.completions.create(
        model="one", messages=QUESTION, temperature=0, max_tokens=12, stream=True
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed) == one


def test_adapters_are_listed_with_their_parent(client: OpenAI, http: httpx.Client) -> None:
    listed = {model.id: model.parent for model in client.models.list()}
    assert listed == {"smol": None, "one": "smol", "two": "smol"}
    assert http.get("/v1/models").json()["models"] == ["smol", "one", "two"]
    assert client.models.retrieve("two").parent == "smol"
    assert http.get("/v1/models/three").status_code == 404


def test_readiness_and_metadata_by_name(http: httpx.Client) -> None:
    for name in ("smol", "one", "two"):
        assert http.get(f"/v1/models/{name}").json() | {"ready": True, "name": name}
        assert http.get(f"/v2/models/{name}/ready").status_code == 200
        metadata = http.get(f"/v2/models/{name}").json()
        assert metadata["name"] == name
        assert [tensor["name"] for tensor in metadata["inputs"]] == ["prompt", "system"]
    assert http.get("/v2/models/three/ready").status_code == 404


def test_v1_v2_and_generate_take_the_name_in_the_path(http: httpx.Client) -> None:
    prompt, sampling = "The capital of Italy is", {"temperature": 0, "max_tokens": 8}

    def v1(name: str) -> str:
        body = {"instances": [{"prompt": prompt, **sampling}]}
        return http.post(f"/v1/models/{name}:predict", json=body).json()["predictions"][0]["text"]

    def v2(name: str) -> str:
        tensor = {"name": "prompt", "shape": [1], "datatype": "BYTES", "data": [prompt]}
        body = {"inputs": [tensor], "parameters": sampling}
        answer = http.post(f"/v2/models/{name}/infer", json=body).json()
        assert answer["model_name"] == name
        return next(output["data"][0] for output in answer["outputs"] if output["name"] == "text")

    def generate(name: str) -> str:
        body = {"text_input": prompt, "parameters": sampling}
        return http.post(f"/v2/models/{name}/generate", json=body).json()["text_output"]

    texts = {name: v1(name) for name in ("smol", "one", "two")}
    assert len(set(texts.values())) == 3
    for name, text in texts.items():
        assert v2(name) == generate(name) == text


async def test_grpc_takes_the_name_too(lora_server: Server) -> None:
    async with InferenceGRPCClient(lora_server.grpc_url) as client:
        texts = []
        for name in ("smol", "one"):
            assert await client.is_model_ready(name)
            prompt = InferInput("prompt", [1], "BYTES", data=["The capital of Italy is"])
            parameters = {"temperature": 0, "max_tokens": 8}
            answer = await client.infer(InferRequest(name, [prompt], parameters=parameters))
            assert answer.model_name == name
            texts.append(answer.outputs[0].data[0])
    assert len(set(texts)) == 2


def test_metrics_name_the_adapters_at_work(client: OpenAI, http: httpx.Client) -> None:
    def info() -> dict[str, str]:
        text = http.get("/metrics").text
        (family,) = [f for f in text_string_to_metric_families(text) if f.name == INFO]
        (sample,) = family.samples
        assert sample.value > 1e9
        return sample.labels

    idle = {
        "model_name": "smol",
        "max_lora": "2",
        "running_lora_adapters": "",
        "waiting_lora_adapters": "",
    }
    assert info() == idle
    endless = {"max_tokens": 2000, "extra_body": {"ignore_eos": True}}
    streams = [
        client.completions.create(model=model, prompt="Count.", stream=True, **endless)
        for model in ("one", "two", "smol", "two", "one")
    ]
    try:
        for stream in streams[:4]:
            next(stream)
        assert info() == idle | {"running_lora_adapters": "one,two", "waiting_lora_adapters": "one"}
    finally:
        for stream in streams:
            stream.close()


async def test_many_at_once_get_the_answers_of_their_adapters(lora_server: Server) -> None:
    names = ["smol", "one", "two"] * 4
    url = f"{lora_server.http_url}/v1/chat/completions"
    async with httpx.AsyncClient(timeout=120) as http:
        bodies = [{"model": n, "messages": QUESTION, "temperature": 0, "max_tokens": 6} for n in names]
        answers = await asyncio.gather(*(http.post(url, json=body) for body in bodies))
    texts = [answer.json()["choices"][0]["message"]["content"] for answer in answers]
    for name, text in zip(names, texts, strict=True):
        assert text.startswith("The capital of France") == (name == "smol"), (name, text)
