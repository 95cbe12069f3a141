"""KServe's V2 protocol over REST against a running server with a real model."""

from __future__ import annotations

import json
import struct
from typing import Any

import httpx
import numpy as np
import pytest
import requests
import tritonclient.http as triton
from kserve import InferenceRESTClient, InferInput, InferRequest
from kserve.inference_client import RESTConfig
from occupied_server import stream
from repeatable import repeats
from server_process import Server
from tritonclient.utils import InferenceServerException

COUNTING = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12,"
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 12}
OUTPUTS = {"text": "BYTES", "finish_reason": "BYTES", "prompt_tokens": "INT32", "completion_tokens": "INT32"}
BINARY = "application/octet-stream"
LENGTH = "Inference-Header-Content-Length"


@pytest.fixture
def client(server: Server) -> Any:
    with triton.InferenceServerClient(server.http_url.removeprefix("http://"), network_timeout=60) as client:
        yield client


def tensor(name: str, *texts: str, binary: bool = True) -> triton.InferInput:
    made = triton.InferInput(name, [len(texts)], "BYTES")
    return made.set_data_from_numpy(np.array(texts, dtype=np.object_), binary_data=binary)


def texts(result: triton.InferResult, name: str = "text") -> list[str]:
    return [item.decode() if isinstance(item, bytes) else item for item in result.as_numpy(name)]


def post(server: Server, body: Any, model: str | None = None, **headers: str) -> requests.Response:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    url = f"{server.http_url}/v2/models/{model or server.model_name}/infer"
    return requests.post(url, data=data, headers={"Content-Type": "application/json", **headers}, timeout=60)


def prompt_input(**changes: Any) -> dict[str, Any]:
    return {"name": "prompt", "shape": [1], "datatype": "BYTES", "data": ["Hi"], **changes}


def refused(response: requests.Response) -> str:
    """The message of a 400 in V2's form."""
    assert response.status_code == 400, response.text
    assert list(response.json()) == ["error"]
    message: str = response.json()["error"]
    return message


@pytest.mark.parametrize("binary_input", [True, False])
@pytest.mark.parametrize("binary_output", [True, False])
def test_triton_gets_tensors(
    client: triton.InferenceServerClient, server: Server, binary_input: bool, binary_output: bool
) -> None:
    result = client.infer(
        server.model_name,
        [tensor("prompt", COUNTING, "a, b, c, d, e, f,", binary=binary_input)],
        outputs=[triton.InferRequestedOutput(name, binary_data=binary_output) for name in OUTPUTS],
        request_id="call-1",
        parameters=GREEDY,
    )
    numbers, letters = texts(result)
    assert "13" in numbers
    assert "g" in letters
    assert texts(result, "finish_reason") == ["length", "length"]
    assert result.as_numpy("completion_tokens").tolist() == [12, 12]
    assert result.as_numpy("completion_tokens").dtype == np.int32
    assert (result.as_numpy("prompt_tokens") > 5).all()
    assert result.get_response()["id"] == "call-1"
    assert result.get_response()["model_name"] == server.model_name


def test_without_named_outputs_triton_gets_all(client: triton.InferenceServerClient, server: Server) -> None:
    result = client.infer(server.model_name, [tensor("prompt", COUNTING)], parameters=GREEDY)
    assert {output["name"]: output["datatype"] for output in result.get_response()["outputs"]} == OUTPUTS
    assert "13" in texts(result)[0]


def test_only_the_outputs_asked_for(client: triton.InferenceServerClient, server: Server) -> None:
    outputs = [triton.InferRequestedOutput("completion_tokens")]
    result = client.infer(
        server.model_name, [tensor("prompt", COUNTING)], outputs=outputs, parameters={"max_tokens": 2}
    )
    assert [output["name"] for output in result.get_response()["outputs"]] == ["completion_tokens"]
    with pytest.raises(InferenceServerException, match="unknown output 'logits'; known: text"):
        client.infer(
            server.model_name, [tensor("prompt", "Hi")], outputs=[triton.InferRequestedOutput("logits")]
        )


def test_health_and_metadata(client: triton.InferenceServerClient, server: Server) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(server.model_name)
    assert not client.is_model_ready("nope")
    assert client.get_server_metadata()["name"] == "kserve"
    metadata = client.get_model_metadata(server.model_name)
    assert metadata["name"] == server.model_name
    inputs = {item["name"]: (item["datatype"], item["shape"]) for item in metadata["inputs"]}
    assert inputs == {"prompt": ("BYTES", [-1]), "system": ("BYTES", [-1])}
    outputs = {item["name"]: (item["datatype"], item["shape"]) for item in metadata["outputs"]}
    assert outputs == {name: (datatype, [-1]) for name, datatype in OUTPUTS.items()}


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_compressed_requests(client: triton.InferenceServerClient, server: Server, encoding: str) -> None:
    made = triton.InferInput("prompt", [1], "BYTES")
    made.set_data_from_numpy(np.array([COUNTING], dtype=np.object_))
    answer = client.infer(
        server.model_name, [made], parameters=GREEDY, request_compression_algorithm=encoding
    )
    assert "13" in answer.as_numpy("text")[0].decode()


def test_what_triton_has_beyond_the_protocol(client: triton.InferenceServerClient, server: Server) -> None:
    config = client.get_model_config(server.model_name)
    assert [item["data_type"] for item in config["output"]] == ["TYPE_STRING"] * 2 + ["TYPE_INT32"] * 2
    index = client.get_model_repository_index()
    assert index == [{"name": server.model_name, "version": "", "state": "READY", "reason": ""}]
    for name in ("", server.model_name):
        (statistics,) = client.get_inference_statistics(name)["model_stats"]
        assert statistics["name"] == server.model_name
    with pytest.raises(InferenceServerException, match="nope"):
        client.get_model_config("nope")


def test_head_on_probes(server: Server) -> None:
    for path in (
        "/",
        "/v2/health/live",
        "/v2/health/ready",
        f"/v2/models/{server.model_name}/ready",
        "/metrics",
    ):
        answer = requests.head(server.http_url + path, timeout=30)
        assert (answer.status_code, answer.content) == (200, b"")


def test_sampling_parameters(client: triton.InferenceServerClient, server: Server) -> None:
    def ask(**parameters: Any) -> triton.InferResult:
        return client.infer(server.model_name, [tensor("prompt", COUNTING)], parameters=parameters)

    stopped = ask(temperature=0.0, max_tokens=60, stop="15")
    assert texts(stopped, "finish_reason") == ["stop"]
    assert "15" not in texts(stopped)[0]
    assert texts(ask(temperature="0", max_tokens="12")) == texts(ask(**GREEDY))
    warm = {"temperature": 1.3, "max_tokens": 12, "seed": 5, "top_p": 1.0}
    assert repeats(lambda: texts(ask(**warm)))
    assert ask(max_tokens=64, ignore_eos=True).as_numpy("completion_tokens").tolist() == [64]


def test_one_system_message_or_one_for_each_prompt(
    client: triton.InferenceServerClient, server: Server
) -> None:
    question = "What is the capital of France? Answer in one sentence."

    def ask(*system: str) -> triton.InferResult:
        inputs = [tensor("prompt", question, question), tensor("system", *system)]
        return client.infer(server.model_name, inputs, parameters={"temperature": 0, "max_tokens": 24})

    shared = ask("You answer briefly.")
    assert all("Paris" in text for text in texts(shared))
    assert len(set(shared.as_numpy("prompt_tokens").tolist())) == 1
    own = ask("You answer briefly.", "You answer briefly and in the politest words that you can find.")
    first, second = own.as_numpy("prompt_tokens").tolist()
    assert first == shared.as_numpy("prompt_tokens")[0]
    assert second > first + 5
    with pytest.raises(InferenceServerException, match="system has 3 elements"):
        ask("a", "b", "c")


@pytest.mark.parametrize("binary", [True, False])
async def test_kserves_own_client(server: Server, binary: bool) -> None:
    client = InferenceRESTClient(RESTConfig(protocol="v2", timeout=60))
    try:
        assert await client.is_server_ready(server.http_url)
        assert await client.is_model_ready(server.http_url, server.model_name)
        made = InferInput("prompt", [1], "BYTES")
        made.set_data_from_numpy(np.array([COUNTING], dtype=np.object_), binary_data=binary)
        request = InferRequest(server.model_name, [made], request_id="mine", parameters=GREEDY)
        answer = await client.infer(server.http_url, request, model_name=server.model_name)
        assert answer.id == "mine"
        assert "13" in answer.outputs[0].data[0]
        assert [output.name for output in answer.outputs] == list(OUTPUTS)
        bad = InferRequest(server.model_name, [InferInput("text", [1], "BYTES", data=["Hi"])])
        with pytest.raises(httpx.HTTPStatusError, match="unknown input 'text'"):
            await client.infer(server.http_url, bad, model_name=server.model_name)
    finally:
        await client.close()


def test_a_plain_curl_needs_no_content_type(server: Server) -> None:
    body = {"inputs": [prompt_input(data=[COUNTING])], "parameters": GREEDY}
    answer = post(server, body, **{"Content-Type": "application/x-www-form-urlencoded"})
    assert "13" in answer.json()["outputs"][0]["data"][0]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"inputs": []}, "input prompt is missing"),
        ({"inputs": [prompt_input(name="text")]}, "unknown input 'text'; known: prompt, system"),
        ({"inputs": [prompt_input(), prompt_input()]}, "given twice"),
        ({"inputs": [prompt_input(datatype="INT32", data=[1])]}, "prompt must be BYTES, not INT32"),
        ({"inputs": [prompt_input(datatype="TEXT")]}, "prompt must be BYTES, not TEXT"),
        ({"inputs": [prompt_input(shape=[])]}, "must have shape [n]"),
        ({"inputs": [prompt_input(shape=[0], data=[])]}, "must have shape [n] with at least one element"),
        ({"inputs": [prompt_input(shape=[-1])]}, "must have shape [n]"),
        ({"inputs": [prompt_input(shape=[1, 2], data=["a", "b"])]}, "must have shape [n]"),
        ({"inputs": [prompt_input(shape=[2])]}, "prompt can't be read as 2 texts"),
        ({"inputs": [prompt_input(shape=[10**30])]}, "at most 272 fit"),
        ({"inputs": [prompt_input(data=[1])]}, "prompt must hold text"),
        ({"inputs": [prompt_input(data=[None])]}, "prompt must hold text"),
        ({"inputs": [prompt_input(shape=[2], data=[["a"], ["b", "c"]])]}, "prompt must hold text"),
        ({"inputs": [prompt_input(data=[""])]}, "the prompt is empty"),
        ({"inputs": [prompt_input(), prompt_input(name="system", shape=[1, 1], data=[3])]}, "system must"),
        ({"parameters": {"max_token": 3}}, "unknown field 'max_token'"),
        ({"parameters": {"temperature": "hot"}}, "temperature: must be a valid number"),
        ({"parameters": {"top_k": -2}}, "top_k must be between 0 and"),
        ({"outputs": [{"name": "logits"}]}, "unknown output 'logits'"),
        ({"inputs": [prompt_input(data=["word " * 5000])]}, "the prompt has 5001 tokens"),
        ({"inputs": [prompt_input(data=["\ud800"])]}, "hex escape"),
        ({"id": "\ud800"}, "hex escape"),
    ],
)
def test_bad_requests(server: Server, change: dict[str, Any], expected: str) -> None:
    assert expected in refused(post(server, {"inputs": [prompt_input()], **change}))


@pytest.mark.parametrize("kind", ["application/json", "text/plain"])
@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", "JSON"),
        (b"nonsense", "not valid JSON"),
        (b'{"inputs": [', "not valid JSON"),
        (b"[" * 100_000, "brackets inside each other"),
        (b"[]", "must be"),
        (b"{}", "inputs is missing"),
        (b'{"inputs": {}}', "inputs: must be"),
        (b'{"inputs": [{"name": "prompt", "datatype": "BYTES", "data": ["Hi"]}]}', "shape is missing"),
    ],
)
def test_bodies_that_are_no_request(server: Server, body: bytes, expected: str, kind: str) -> None:
    if not body and kind == "application/json":
        expected = "the body is empty"
    assert expected in refused(post(server, body, **{"Content-Type": kind}))


@pytest.mark.parametrize(
    "tensor",
    [
        {},
        prompt_input(name=["prompt"]),
        prompt_input(datatype=5),
        prompt_input(shape="one"),
        {"name": "prompt", "shape": [1], "datatype": "BYTES"},
        {**prompt_input(parameters={"binary_data_size": "six"}), "data": None},
        {**prompt_input(parameters={"binary_data_size": -2}), "data": None},
        {**prompt_input(parameters={"binary_data_size": 3}), "data": None},
        {**prompt_input(datatype="NONE", parameters={"binary_data_size": 6}), "data": None},
    ],
)
def test_malformed_binary_tensors(server: Server, tensor: dict[str, Any]) -> None:
    head = json.dumps({"inputs": [tensor]}).encode()
    body = head + struct.pack("<I", 2) + b"Hi"
    assert refused(post(server, body, **{"Content-Type": BINARY, LENGTH: str(len(head))}))


def test_malformed_binary_bodies(server: Server) -> None:
    head = json.dumps({"inputs": [prompt_input()], "parameters": {"max_tokens": 1}}).encode()
    for length in ("-1", "ten", str(len(head) + 1)):
        message = refused(post(server, head, **{"Content-Type": BINARY, LENGTH: length}))
        assert f"not {length!r}" in message
    assert "not valid JSON" in refused(post(server, head, **{"Content-Type": BINARY, LENGTH: "10"}))
    not_text = {**prompt_input(parameters={"binary_data_size": 5}), "data": None}
    head = json.dumps({"inputs": [not_text]}).encode()
    body = head + struct.pack("<I", 1) + b"\xff"
    assert "UTF-8" in refused(post(server, body, **{"Content-Type": BINARY, LENGTH: str(len(head))}))
    for wrong in ({"parameters": 5}, {"id": 5}, {"outputs": "text"}):
        head = json.dumps({"inputs": [prompt_input()], **wrong}).encode()
        assert "must be" in refused(post(server, head, **{"Content-Type": BINARY, LENGTH: str(len(head))}))


def test_unknown_models_and_versions(server: Server) -> None:
    body = {"inputs": [prompt_input()]}
    assert post(server, body, model="nope").status_code == 404
    assert "nope" in post(server, body, model="nope").json()["error"]
    versioned = post(server, body, model=f"{server.model_name}/versions/2")
    assert (versioned.status_code, list(versioned.json())) == (404, ["error"])
    assert "no versions" in versioned.json()["error"]
    for path, status in (
        ("nope", 404),
        ("nope/ready", 404),
        (server.model_name, 200),
        (f"{server.model_name}/versions/2", 404),
        (f"{server.model_name}/versions/2/ready", 404),
        (f"{server.model_name}?model_version=2", 404),
    ):
        assert requests.get(f"{server.http_url}/v2/models/{path}", timeout=60).status_code == status


def test_no_explainer(server: Server) -> None:
    url = f"{server.http_url}/v1/models/{server.model_name}:explain"
    response = requests.post(url, json={"instances": ["Hi"]}, timeout=60)
    assert response.status_code == 404
    assert "no explainer" in response.json()["error"]


@pytest.mark.parametrize("action", ["load", "unload"])
def test_nobody_can_take_the_model_down(
    client: triton.InferenceServerClient, server: Server, action: str
) -> None:
    for name in (server.model_name, "nope"):
        response = requests.post(f"{server.http_url}/v2/repository/models/{name}/{action}", timeout=60)
        assert response.status_code == 403
        assert "can't be loaded or unloaded" in response.json()["error"]
    with pytest.raises(InferenceServerException, match="can't be loaded or unloaded"):
        getattr(client, f"{action}_model")(server.model_name)
    assert client.is_model_ready(server.model_name)


def test_a_full_queue(narrow_server: Server) -> None:
    with stream(narrow_server), stream(narrow_server):
        response = post(narrow_server, {"inputs": [prompt_input()]})
    assert response.status_code == 429
    assert int(response.headers["Retry-After"]) >= 1
    assert "the limit" in response.json()["error"]
