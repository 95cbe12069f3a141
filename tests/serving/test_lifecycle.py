"""A server process from its start to its end: loading, draining, stopping, and clients that leave."""

from __future__ import annotations

import http.client
import json
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as messages
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub
from occupied_server import ENDLESS, ask, assert_freed, completion, events, stream, wait_until_running
from server_process import Server, running_server, started_server, wait_until_ready

LOADED = "loaded and warm"
TOKENS = 300
"""More than are generated before a server has taken notice of a signal."""
PATIENCE = 60
"""Seconds, for a machine that does much else."""

# Loads as ever, only later: the demo model is in memory before anybody can ask.
SLOW_LOAD = """
import time
from predictor import cli
from predictor.serving import loading
engine = loading.Engine
loading.Engine = lambda *given: (time.sleep({seconds}), engine(*given))[1]
cli.main()
"""


def slow_load(seconds: float) -> list[str]:
    return [sys.executable, "-c", SLOW_LOAD.format(seconds=seconds)]


@contextmanager
def grpc_stub(server: Server) -> Iterator[GRPCInferenceServiceStub]:
    with grpc.insecure_channel(server.grpc_url) as channel:
        yield GRPCInferenceServiceStub(channel)


def infer_message(server: Server, tokens: int) -> Any:
    prompt = messages.ModelInferRequest.InferInputTensor(name="prompt", datatype="BYTES", shape=[1])
    prompt.contents.bytes_contents.append(b"The sea")
    message = messages.ModelInferRequest(model_name=server.model_name, inputs=[prompt])
    message.parameters["max_tokens"].int64_param = tokens
    message.parameters["ignore_eos"].bool_param = True
    return message


def predict(server: Server, tokens: int) -> httpx.Response:
    """A V1 call of exactly so many tokens."""
    instance = {"prompt": "The sea", "max_tokens": tokens, "ignore_eos": True}
    url = f"{server.http_url}/v1/models/{server.model_name}:predict"
    return httpx.post(url, json={"instances": [instance]}, timeout=120)


def assert_not_ready_everywhere(server: Server) -> None:
    """Alive, not ready, and every protocol refuses in its own form and says when to come back."""
    model = server.model_name
    ready = httpx.get(server.ready_url, timeout=PATIENCE)
    assert (ready.status_code, "retry-after" in ready.headers) == (503, True)
    assert httpx.get(f"{server.http_url}/v2/health/ready", timeout=PATIENCE).status_code == 503
    health = httpx.get(f"{server.http_url}/health", timeout=PATIENCE)
    assert (health.status_code, health.json()["error"]["code"]) == (503, "unavailable")
    assert httpx.get(f"{server.http_url}/v2/health/live", timeout=PATIENCE).status_code == 200
    prompt = {"name": "prompt", "shape": [1], "datatype": "BYTES", "data": ["Hi"]}
    for path, body in (
        ("/v1/completions", completion(server, 1)),
        ("/v1/completions", completion(server, 1, stream=True)),
        ("/openai/v1/chat/completions", {"model": model, "messages": [{"role": "user", "content": "Hi"}]}),
        (f"/v1/models/{model}:predict", {"instances": ["Hi"]}),
        (f"/v2/models/{model}/infer", {"inputs": [prompt]}),
        (f"/v2/models/{model}/generate", {"text_input": "Hi"}),
        ("/predict", {"prompt": "Hi"}),
    ):
        response = httpx.post(server.http_url + path, json=body, timeout=PATIENCE)
        assert response.status_code == 503, path
        assert int(response.headers["retry-after"]) >= 1, path
        error = response.json()["error"]
        if "completions" in path:
            assert error["code"] == "unavailable", path
            error = error["message"]
        assert model in error, path
    with grpc_stub(server) as stub:
        assert stub.ServerLive(messages.ServerLiveRequest(), timeout=PATIENCE).live
        assert not stub.ServerReady(messages.ServerReadyRequest(), timeout=PATIENCE).ready
        assert not stub.ModelReady(messages.ModelReadyRequest(name=model), timeout=PATIENCE).ready
        with pytest.raises(grpc.RpcError) as refused:
            stub.ModelInfer(infer_message(server, 1), timeout=PATIENCE)
        assert refused.value.code() == grpc.StatusCode.UNAVAILABLE


def first_answer(server: Server, *statuses: int) -> int:
    """Poll from the start of the process, as a probe does, until one of the statuses comes."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert server.process.poll() is None, server.log.read_text()
        try:
            status = httpx.get(server.ready_url, timeout=5).status_code
        except httpx.TransportError:
            status = 0
        if status in statuses:
            return status
        assert status in (0, 503)
        time.sleep(0.01)
    raise AssertionError(server.log.read_text())


def terminate(server: Server) -> None:
    """Send SIGTERM and wait for the moment that readiness turns false."""
    server.process.terminate()
    deadline = time.monotonic() + PATIENCE
    while httpx.get(server.ready_url, timeout=PATIENCE).status_code != 503:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def end_of(server: Server, seconds: float) -> int:
    """Exit status of a server that must end by itself within so many seconds."""
    status = server.process.wait(seconds)
    assert "Traceback" not in server.log.read_text()
    return status


def is_cut(seen: list[Any]) -> bool:
    return seen[-1] != "[DONE]" and seen[-1]["error"]["code"] == "unavailable"


def test_it_is_not_ready_before_the_model_is_warm(model_path: Path, tmp_path: Path) -> None:
    with started_server(model_path, tmp_path / "log") as server:
        first_answer(server, 200)
        assert LOADED in server.log.read_text()
        assert ask(server).status_code == 200


def test_while_it_loads_it_is_alive_and_refuses(model_path: Path, tmp_path: Path) -> None:
    with started_server(model_path, tmp_path / "log", command=slow_load(6)) as server:
        assert first_answer(server, 503, 200) == 503
        assert_not_ready_everywhere(server)
        assert LOADED not in server.log.read_text()
        first_answer(server, 200)
        assert LOADED in server.log.read_text()
        assert ask(server).status_code == 200


def test_sigterm_in_the_middle_of_the_load(model_path: Path, tmp_path: Path) -> None:
    with started_server(model_path, tmp_path / "log", command=slow_load(60)) as server:
        first_answer(server, 503)
        server.process.terminate()
        assert end_of(server, 5) == 0


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as pool:
        yield pool


def test_sigterm_lets_running_requests_finish(
    platform: str, model_path: Path, tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    options = ("--platform", platform, "--grace-period-seconds", "200")
    with running_server(model_path, tmp_path / "log", *options) as server, grpc_stub(server) as stub:
        whole: Future[httpx.Response] = pool.submit(predict, server, TOKENS)
        remote = stub.ModelInfer.future(infer_message(server, TOKENS))
        with stream(server, TOKENS) as response:
            seen = events(response)
            next(seen)
            time.sleep(0.3)
            terminate(server)
            assert_not_ready_everywhere(server)
            *chunks, usage, done = seen
        assert done == "[DONE]"
        assert usage["usage"]["completion_tokens"] == TOKENS
        assert chunks[-1]["choices"][0]["finish_reason"] == "length"
        assert whole.result().json()["predictions"][0]["usage"]["completion_tokens"] == TOKENS
        assert remote.result(timeout=60).outputs[1].contents.bytes_contents[0] == b"length"
        assert end_of(server, PATIENCE) == 0


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT, None])
def test_what_runs_too_long_is_cut(
    platform: str,
    model_path: Path,
    tmp_path: Path,
    pool: ThreadPoolExecutor,
    second: signal.Signals | None,
) -> None:
    """By the end of the grace period, or by a second signal."""
    grace = 200 if second else 2
    options = ("--platform", platform, "--grace-period-seconds", str(grace))
    with running_server(model_path, tmp_path / "log", *options) as server, grpc_stub(server) as stub:
        whole: Future[httpx.Response] = pool.submit(predict, server, ENDLESS)
        remote = stub.ModelInfer.future(infer_message(server, ENDLESS))
        with stream(server) as response:
            seen = events(response)
            next(seen)
            time.sleep(0.3)
            terminate(server)
            started = time.monotonic()
            if second is not None:
                assert "choices" in next(seen)
                assert "choices" in next(seen)
                server.process.send_signal(second)
            assert is_cut(list(seen))
        assert whole.result(timeout=PATIENCE).status_code == 503
        assert "shut down" in whole.result().json()["error"]
        assert int(whole.result().headers["retry-after"]) >= 1
        assert remote.exception(timeout=PATIENCE).code() == grpc.StatusCode.UNAVAILABLE
        assert end_of(server, PATIENCE) == 0
        assert time.monotonic() - started < (grace / 2 if second else grace + 25)


def test_an_idle_server_ends_at_once(model_path: Path, tmp_path: Path) -> None:
    with (
        running_server(model_path, tmp_path / "log") as server,
        httpx.Client(base_url=server.http_url) as idle,
        grpc_stub(server) as stub,
    ):
        assert idle.get("/").status_code == 200
        assert stub.ServerLive(messages.ServerLiveRequest()).live
        server.process.terminate()
        assert end_of(server, 5) == 0


def test_a_full_queue_refuses_and_the_others_finish(narrow_server: Server) -> None:
    with stream(narrow_server, 100) as running, stream(narrow_server, 30) as waiting:
        refused = [ask(narrow_server), predict(narrow_server, 1)]
        ends = [list(events(response)) for response in (running, waiting)]
    for response in refused:
        assert response.status_code == 429
        assert int(response.headers["retry-after"]) >= 1
    assert refused[0].json()["error"]["code"] == "rate_limit_exceeded"
    assert isinstance(refused[1].json()["error"], str)
    for (*_, usage, done), tokens in zip(ends, (100, 30), strict=True):
        assert (usage["usage"]["completion_tokens"], done) == (tokens, "[DONE]")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": "The sea"}),
        ("/v1/completions", {"prompt": "The sea", "stream": True}),
        ("/v1/completions", {"prompt": "word " * 3000}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}], "stream": True}),
        ("/v1/models/{model}:predict", {"instances": [{"prompt": "The sea"}]}),
        ("/v2/models/{model}/generate", {"text_input": "The sea"}),
        ("/v2/models/{model}/generate_stream", {"text_input": "The sea"}),
        ("/predict", {"prompt": "The sea"}),
    ],
)
def test_a_client_that_leaves_frees_its_sequence(
    narrow_server: Server, path: str, body: dict[str, Any]
) -> None:
    sampling = {"max_tokens": ENDLESS, "ignore_eos": True}
    if "instances" in body:
        body = {"instances": [body["instances"][0] | sampling]}
    elif "text_input" in body:
        body = body | {"parameters": sampling}
    else:
        body = body | sampling | {"model": narrow_server.model_name}
    connection = http.client.HTTPConnection(narrow_server.http_url.removeprefix("http://"), timeout=60)
    address = path.format(model=narrow_server.model_name)
    connection.request("POST", address, json.dumps(body), {"Content-Type": "application/json"})
    time.sleep(1)  # A long prompt is tokenized on a thread; what is asked below must not overtake it.
    wait_until_running(narrow_server)
    assert_freed(narrow_server, connection.close)


def test_ready_again_after_a_restart_on_the_same_ports(model_path: Path, tmp_path: Path) -> None:
    """Ports with connections that were just closed are not taken for used ones."""
    with running_server(model_path, tmp_path / "log") as server:
        assert ask(server).status_code == 200
        server.process.terminate()
        assert end_of(server, 5) == 0
        ports = [url.rsplit(":", 1)[1] for url in (server.http_url, server.grpc_url)]
    options = ("--http-port", ports[0], "--grpc-port", ports[1])
    with started_server(model_path, tmp_path / "log", *options) as again:
        same = Server(server.http_url, server.grpc_url, "smol", 4096, again.process, again.log)
        wait_until_ready(same)
