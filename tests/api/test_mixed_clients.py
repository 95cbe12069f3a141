"""Eight clients at once, each over another route: every one gets its own answer."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import grpc
import httpx
import openai
import pytest
import requests
from kserve.protocol.grpc import grpc_predict_v2_pb2 as messages
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub
from server_process import Server

CAPITALS = {
    "France": "Paris",
    "Germany": "Berlin",
    "Italy": "Rome",
    "Spain": "Madrid",
    "Japan": "Tokyo",
    "Russia": "Moscow",
    "England": "London",
    "China": "Beijing",
}
TOKENS = 12


def prompt(country: str) -> str:
    return f"The capital of {country} is"


def openai_completion(server: Server, country: str) -> str:
    with openai.OpenAI(base_url=f"{server.http_url}/v1", api_key="none", max_retries=0) as client:
        answer = client.completions.create(
            model=server.model_name, prompt=prompt(country), temperature=0, max_tokens=TOKENS
        )
        return answer.choices[0].text


def openai_stream(server: Server, country: str) -> str:
    with openai.OpenAI(base_url=f"{server.http_url}/openai/v1", api_key="none", max_retries=0) as client:
        stream = client.completions.create(
            model=server.model_name, prompt=prompt(country), temperature=0, max_tokens=TOKENS, stream=True
        )
        return "".join(chunk.choices[0].text for chunk in stream)


def v1(server: Server, country: str) -> str:
    instance = {"prompt": prompt(country), "temperature": 0, "max_tokens": TOKENS}
    url = f"{server.http_url}/v1/models/{server.model_name}:predict"
    answer = requests.post(url, json={"instances": [instance]}, timeout=120)
    return str(answer.json()["predictions"][0]["text"])


def v2_rest(server: Server, country: str) -> str:
    tensor = {"name": "prompt", "shape": [1], "datatype": "BYTES", "data": [prompt(country)]}
    body = {"inputs": [tensor], "parameters": {"temperature": 0, "max_tokens": TOKENS}}
    url = f"{server.http_url}/v2/models/{server.model_name}/infer"
    return str(httpx.post(url, json=body, timeout=120).json()["outputs"][0]["data"][0])


def v2_grpc(server: Server, country: str) -> str:
    tensor = messages.ModelInferRequest.InferInputTensor(name="prompt", datatype="BYTES", shape=[1])
    tensor.contents.bytes_contents.append(prompt(country).encode())
    request = messages.ModelInferRequest(model_name=server.model_name, inputs=[tensor])
    request.parameters["temperature"].string_param = "0"
    request.parameters["max_tokens"].int64_param = TOKENS
    with grpc.insecure_channel(server.grpc_url) as channel:
        answer = GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=120)
    return str(answer.outputs[0].contents.bytes_contents[0].decode())


def generate(server: Server, country: str) -> str:
    body = {"text_input": prompt(country), "parameters": {"temperature": 0, "max_tokens": TOKENS}}
    url = f"{server.http_url}/v2/models/{server.model_name}/generate"
    return str(httpx.post(url, json=body, timeout=120).json()["text_output"])


ROUTES: tuple[Callable[[Server, str], str], ...] = (
    openai_completion, v1, v2_rest, v2_grpc, openai_stream, v1, generate, v2_grpc,
)  # fmt: skip


@pytest.mark.parametrize("shift", [0, 3])
def test_everybody_gets_their_own_answer(server: Server, shift: int) -> None:
    routes = ROUTES[shift:] + ROUTES[:shift]
    with ThreadPoolExecutor(len(CAPITALS)) as pool:
        answers = list(pool.map(lambda route, country: route(server, country), routes, CAPITALS))
    for country, answer in zip(CAPITALS, answers, strict=True):
        others = set(CAPITALS.values()) - {CAPITALS[country]}
        assert CAPITALS[country] in answer
        assert not any(other in answer.split(".")[0] for other in others)
