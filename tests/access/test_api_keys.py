"""API keys with real clients of every protocol, against a real server."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import grpc
import httpx
import numpy as np
import openai
import pytest
import requests
import tritonclient.http as triton
from kserve import InferenceGRPCClient, InferInput, InferRequest
from kserve.inference_client import InferenceRESTClient, RESTConfig
from kserve.protocol.grpc import grpc_predict_v2_pb2 as messages
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub
from occupied_server import ENDLESS, completion
from server_process import Server, running_server
from tritonclient.utils import InferenceServerException

ANN, BOB, CAROL, LATE = (f"{name}-0123456789abcdef" for name in ("ann", "bob", "carol", "late"))
WRONG = "wrong-0123456789abcdef"
KEYS = f"ann {ANN}\nbob {BOB} max_concurrent=1\ncarol {CAROL} requests_per_minute=2\n"
ORIGIN = "https://chat.example"
MAX_BODY = 20_000


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "keys"
    path.write_text(KEYS)
    return path


@pytest.fixture(scope="module")
def guarded(model_path: Path, key_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("guarded") / "log"
    options = ("--api-key-file", str(key_file), "--cors-origins", ORIGIN, "--log-level", "debug")
    with running_server(model_path, log, *options, "--max-body-bytes", str(MAX_BODY)) as server:
        yield server


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def openai_client(server: Server, key: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.http_url}/v1", api_key=key, max_retries=0)


def one_token(server: Server, key: str = ANN, **fields: Any) -> httpx.Response:
    body = completion(server, 1, **fields)
    return httpx.post(f"{server.http_url}/v1/completions", json=body, headers=bearer(key), timeout=60)


def v2_body(**parameters: Any) -> dict[str, Any]:
    prompt = {"name": "prompt", "shape": [1], "datatype": "BYTES", "data": ["The sea"]}
    return {"inputs": [prompt], "parameters": {"max_tokens": 1, **parameters}}


def grpc_message(server: Server, **parameters: int) -> Any:
    prompt = messages.ModelInferRequest.InferInputTensor(name="prompt", datatype="BYTES", shape=[1])
    prompt.contents.bytes_contents.append(b"The sea")
    message = messages.ModelInferRequest(model_name=server.model_name, inputs=[prompt])
    for name, value in {"max_tokens": 1, **parameters}.items():
        message.parameters[name].int64_param = value
    return message


def test_the_openai_client(guarded: Server) -> None:
    client = openai_client(guarded, ANN)
    request: dict[str, Any] = {"model": "smol", "prompt": "The sea", "max_tokens": 2}
    assert client.completions.create(**request).choices[0].text
    assert list(client.completions.create(**request, stream=True))
    assert client.models.list().data[0].id == "smol"
    for key in (WRONG, ANN + "x", ANN[:-1]):
        with pytest.raises(openai.AuthenticationError) as refused:
            openai_client(guarded, key).completions.create(**request)
        assert refused.value.code == "invalid_api_key"
        assert refused.value.type == "authentication_error"
        assert key not in refused.value.message


def test_anthropics_client_and_its_header(guarded: Server) -> None:
    def ask(**keys: str) -> Any:
        with anthropic.Anthropic(base_url=guarded.http_url, max_retries=0, **keys) as client:
            return client.messages.create(
                model="smol", max_tokens=1, messages=[{"role": "user", "content": "Hi"}]
            )

    assert ask(api_key=ANN).content
    assert ask(auth_token=ANN).content
    with pytest.raises(anthropic.AuthenticationError) as refused:
        ask(api_key=WRONG)
    assert refused.value.body["error"]["type"] == "authentication_error"  # type: ignore[index]
    assert WRONG not in str(refused.value)
    assert WRONG not in guarded.log.read_text()
    url = f"{guarded.http_url}/v1/completions"
    for headers, status in (({"x-api-key": ANN}, 200), ({"x-api-key": WRONG}, 401), ({}, 401)):
        assert httpx.post(url, json=completion(guarded, 1), headers=headers).status_code == status


def test_kserves_rest_client(guarded: Server) -> None:
    import asyncio

    async def ask(protocol: str, data: dict[str, Any], key: str) -> Any:
        client = InferenceRESTClient(RESTConfig(protocol=protocol, timeout=60, retries=0))
        try:
            return await client.infer(
                guarded.http_url, data, model_name="smol", headers=bearer(key), response_headers={}
            )
        finally:
            await client.close()

    v1 = {"instances": [{"prompt": "The sea", "max_tokens": 1}]}
    assert asyncio.run(ask("v1", v1, ANN))["predictions"]
    assert asyncio.run(ask("v2", v2_body(), ANN)).outputs
    for protocol, data in (("v1", v1), ("v2", v2_body())):
        with pytest.raises(httpx.HTTPStatusError, match="401"):
            asyncio.run(ask(protocol, data, WRONG))


def test_kserves_grpc_client(guarded: Server) -> None:
    import asyncio

    async def ask(key: str | None) -> Any:
        client = InferenceGRPCClient(guarded.grpc_url)
        prompt = InferInput("prompt", [1], "BYTES")
        prompt.set_data_from_numpy(np.array([b"The sea"], dtype=np.object_))
        headers = [("authorization", f"Bearer {key}")] if key else None
        try:
            assert await client.is_server_ready()
            assert await client.is_model_ready("smol")
            request = InferRequest("smol", [prompt], parameters={"max_tokens": 1})
            return await client.infer(request, headers=headers)
        finally:
            await client.close()

    assert asyncio.run(ask(ANN)).outputs
    for key in (None, WRONG):
        with pytest.raises(grpc.RpcError) as refused:
            asyncio.run(ask(key))
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_triton_over_http(guarded: Server) -> None:
    client = triton.InferenceServerClient(guarded.http_url.removeprefix("http://"))
    prompt = triton.InferInput("prompt", [1], "BYTES")
    prompt.set_data_from_numpy(np.array([b"The sea"], dtype=np.object_))
    assert client.is_server_live()
    assert client.is_model_ready("smol")
    answer = client.infer("smol", [prompt], parameters={"max_tokens": 1}, headers=bearer(ANN))
    assert answer.as_numpy("text").shape == (1,)
    for headers in (None, bearer(WRONG)):
        with pytest.raises(InferenceServerException, match=r"\[401\]"):
            client.infer("smol", [prompt], headers=headers)


TRITON_GRPC = """
import sys, numpy as np, tritonclient.grpc as triton
url, key = sys.argv[1:]
client = triton.InferenceServerClient(url)
prompt = triton.InferInput("prompt", [1], "BYTES")
prompt.set_data_from_numpy(np.array([b"The sea"], dtype=np.object_))
try:
    client.infer("smol", [prompt], parameters={"max_tokens": 1}, headers={"authorization": f"Bearer {key}"})
except triton.InferenceServerException as error:
    print(error.status())
else:
    print("answered")
"""


def test_triton_over_grpc(guarded: Server) -> None:
    def ask(key: str) -> str:
        command = [sys.executable, "-c", TRITON_GRPC, guarded.grpc_url, key]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout.strip()

    assert ask(ANN) == "answered"
    assert ask(WRONG) == "StatusCode.UNAUTHENTICATED"


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", f"Basic {ANN}", ANN, f"Bearer {WRONG}", f"Bearer {ANN} {ANN}"]
)
def test_every_route_refuses_in_its_own_form(guarded: Server, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header}
    v1, v2 = "/v1/models/smol", "/v2/models/smol"
    for method, path in (
        ("POST", "/v1/completions"),
        ("POST", "/openai/v1/chat/completions"),
        ("GET", "/v1/models"),
        ("GET", v1),
        ("POST", f"{v1}:predict"),
        ("GET", v2),
        ("POST", f"{v2}/infer"),
        ("POST", f"{v2}/generate"),
        ("POST", f"{v2}/generate_stream"),
        ("POST", "/v2/repository/models/smol/load"),
        ("POST", "/v2/repository/models/smol/unload"),
        ("POST", "/predict"),
        ("GET", "/openapi.json"),
        ("GET", "/no/such/route"),
        ("POST", "/metrics"),
    ):
        # The body is wrong on purpose: it must not even be looked at.
        answer = requests.request(method, guarded.http_url + path, data="{", headers=headers, timeout=60)
        assert answer.status_code == 401, path
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.headers["x-request-id"]
        error = answer.json()["error"]
        is_openai = path.startswith(("/v1/", "/openai/")) and not path.endswith(":predict")
        if is_openai:
            assert error.keys() == {"message", "type", "param", "code"}, path
            assert error["code"] == "invalid_api_key"
        else:
            assert isinstance(error, str), path
    assert one_token(guarded).status_code == 200


def test_grpc_refuses_everything_but_health(guarded: Server) -> None:
    with grpc.insecure_channel(guarded.grpc_url) as channel:
        stub = GRPCInferenceServiceStub(channel)
        assert stub.ServerLive(messages.ServerLiveRequest(), timeout=30).live
        assert stub.ServerReady(messages.ServerReadyRequest(), timeout=30).ready
        assert stub.ModelReady(messages.ModelReadyRequest(name="smol"), timeout=30).ready
        for method, request in (
            (stub.ModelInfer, grpc_message(guarded)),
            (stub.ModelMetadata, messages.ModelMetadataRequest(name="smol")),
            (stub.ServerMetadata, messages.ServerMetadataRequest()),
            (stub.RepositoryModelLoad, messages.RepositoryModelLoadRequest(model_name="smol")),
            (stub.RepositoryModelUnload, messages.RepositoryModelUnloadRequest(model_name="smol")),
        ):
            for metadata in ((), (("authorization", f"Bearer {WRONG}"),), (("authorization", ANN),)):
                with pytest.raises(grpc.RpcError) as refused:
                    method(request, metadata=metadata, timeout=30)
                assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        with pytest.raises(grpc.RpcError) as closed:
            stub.RepositoryModelUnload(
                messages.RepositoryModelUnloadRequest(model_name="smol"),
                metadata=(("authorization", f"Bearer {ANN}"),),
                timeout=30,
            )
        assert closed.value.code() is grpc.StatusCode.PERMISSION_DENIED


def test_health_and_metrics_are_open(guarded: Server) -> None:
    open_paths = ("/", "/metrics", "/health", "/v1/health", "/v2/health/live", "/v2/health/ready")
    for path in (*open_paths, "/v2/models/smol/ready"):
        assert requests.get(guarded.http_url + path, timeout=60).status_code == 200, path
    for path in ("/v2/models/a/b/ready", "//metrics", "/metrics/", "/v2/models/smol/ready/", "/METRICS"):
        assert requests.get(guarded.http_url + path, timeout=60).status_code == 401, path
    for path in ("/tokenize", "/detokenize", "/apply-template", "/infill"):
        refused = requests.post(guarded.http_url + path, json={}, timeout=60)
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key"), path


def test_a_key_at_its_concurrency_limit(guarded: Server) -> None:
    body = completion(guarded, ENDLESS, stream=True)
    url = f"{guarded.http_url}/v1/completions"
    with httpx.stream("POST", url, json=body, headers=bearer(BOB), timeout=60) as running:
        assert running.status_code == 200
        with pytest.raises(openai.RateLimitError) as refused:
            openai_client(guarded, BOB).completions.create(model="smol", prompt="a", max_tokens=1)
        assert refused.value.code == "rate_limit_exceeded"
        assert int(refused.value.response.headers["retry-after"]) >= 1
        kserve = requests.post(
            f"{guarded.http_url}/v1/models/smol:predict", data="{}", headers=bearer(BOB), timeout=60
        )
        assert (kserve.status_code, kserve.headers["retry-after"]) == (429, "1")
        assert "is its limit" in kserve.json()["error"]
        with grpc.insecure_channel(guarded.grpc_url) as channel, pytest.raises(grpc.RpcError) as error:
            GRPCInferenceServiceStub(channel).ModelInfer(
                grpc_message(guarded), metadata=(("authorization", f"Bearer {BOB}"),), timeout=30
            )
        assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert ("retry-after", "1") in [tuple(item) for item in error.value.trailing_metadata()]
        assert one_token(guarded, ANN).status_code == 200
    deadline = time.monotonic() + 30
    while one_token(guarded, BOB).status_code != 200:
        assert time.monotonic() < deadline, "a client that left still counts"
        time.sleep(0.1)


def test_a_key_at_its_rate_limit(guarded: Server) -> None:
    answers = [one_token(guarded, CAROL) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 30
    assert one_token(guarded, ANN).status_code == 200


def test_keys_change_without_a_restart(guarded: Server, key_file: Path) -> None:
    assert one_token(guarded, LATE).status_code == 401
    try:
        key_file.write_text(KEYS.replace(ANN, LATE))
        assert one_token(guarded, LATE).status_code == 200
        assert one_token(guarded, ANN).status_code == 401
    finally:
        key_file.write_text(KEYS)
    assert one_token(guarded, ANN).status_code == 200


def test_too_large_bodies(guarded: Server) -> None:
    large = "x" * (MAX_BODY + 1)
    for path in ("/v1/completions", "/v1/models/smol:predict", "/v2/models/smol/infer", "/predict"):
        answer = requests.post(guarded.http_url + path, data=large, headers=bearer(ANN), timeout=60)
        assert answer.status_code == 413
        error = answer.json()["error"]
        if "completions" in path:
            assert error["code"] == "request_too_large"
            error = error["message"]
        assert str(MAX_BODY) in error
    message = grpc_message(guarded)
    message.inputs[0].contents.bytes_contents[0] = large.encode()
    with grpc.insecure_channel(guarded.grpc_url) as channel, pytest.raises(grpc.RpcError) as refused:
        GRPCInferenceServiceStub(channel).ModelInfer(
            message, metadata=(("authorization", f"Bearer {ANN}"),), timeout=30
        )
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_nobody_without_a_key_makes_the_server_read_a_body(guarded: Server) -> None:
    """Announced but never sent: whoever waited for it would wait for ever."""
    import socket

    host, port = guarded.http_url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\n")
        assert b" 401 " in connection.recv(4096)


def test_browsers_of_the_allowed_origin_only(guarded: Server, server: Server) -> None:
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}

    def preflight(target: Server, origin: str) -> requests.Response:
        headers = {"Origin": origin, **asked}
        return requests.options(f"{target.http_url}/v1/completions", headers=headers, timeout=60)

    allowed = preflight(guarded, ORIGIN)
    assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, ORIGIN)
    assert "authorization" in allowed.headers["access-control-allow-headers"]
    assert "access-control-allow-origin" not in preflight(guarded, "https://evil.example").headers
    assert "access-control-allow-origin" not in preflight(server, ORIGIN).headers
    for key, status in ((ANN, 200), (WRONG, 401)):
        answer = requests.get(
            f"{guarded.http_url}/v1/models", headers={"Origin": ORIGIN, **bearer(key)}, timeout=60
        )
        assert answer.status_code == status
        assert answer.headers["access-control-allow-origin"] == ORIGIN
        assert "access-control-allow-credentials" not in answer.headers


def test_refusals_are_counted_and_logs_name_the_key(guarded: Server) -> None:
    def refused(reason: str) -> float:
        text = requests.get(f"{guarded.http_url}/metrics", timeout=60).text
        name = f'kserve_llamacpp_request_rejected_total{{model_name="smol",reason="{reason}"}} '
        return float(next(line for line in text.splitlines() if line.startswith(name)).split()[-1])

    before = refused("unauthenticated")
    one_token(guarded, WRONG)
    assert refused("unauthenticated") == before + 1
    assert refused("rate_limited") >= 0
    one_token(guarded, ANN)
    deadline = time.monotonic() + 10
    while "api_key=ann" not in guarded.log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    metrics = requests.get(f"{guarded.http_url}/metrics", timeout=60).text
    for key in (ANN, BOB, CAROL, LATE, WRONG):
        assert key not in guarded.log.read_text()
        assert key not in metrics


def test_grpc_lines_have_the_callers_request_id(guarded: Server) -> None:
    with grpc.insecure_channel(guarded.grpc_url) as channel:
        metadata = (("authorization", f"Bearer {ANN}"), ("x-request-id", "from-grpc"))
        answer, call = GRPCInferenceServiceStub(channel).ModelInfer.with_call(
            grpc_message(guarded), metadata=metadata, timeout=30
        )
    assert answer.id == "from-grpc"
    assert ("x-request-id", "from-grpc") in [tuple(item) for item in call.initial_metadata()]
    deadline = time.monotonic() + 10
    while "request_id=from-grpc" not in guarded.log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_file_without_keys_stops_the_start(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("hunter2\n")
    command = [sys.executable, "-m", "predictor.cli", "serve", "no.gguf", "--api-key-file", str(path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 1
    assert "line 1" in ended.stderr
    assert "hunter2" not in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.ray
def test_keys_on_ray_serve(model_path: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(KEYS)
    options = ("--platform", "ray", "--api-key-file", str(keys))
    with running_server(model_path, tmp_path / "log", *options) as server:
        assert one_token(server, WRONG).json()["error"]["code"] == "invalid_api_key"
        assert [one_token(server, CAROL).status_code for _ in range(3)] == [200, 200, 429]
        with grpc.insecure_channel(server.grpc_url) as channel:
            stub = GRPCInferenceServiceStub(channel)
            assert stub.ServerReady(messages.ServerReadyRequest(), timeout=60).ready
            with pytest.raises(grpc.RpcError) as refused:
                stub.ModelInfer(grpc_message(server), timeout=60)
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
            metadata = (("authorization", f"Bearer {ANN}"),)
            assert stub.ModelInfer(grpc_message(server), metadata=metadata, timeout=60).outputs
