"""Spans that a running server sends, for requests of every protocol."""

from __future__ import annotations

import json
import secrets
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import grpc
import httpx
import pytest
from kserve.protocol.grpc.grpc_predict_v2_pb2 import ModelInferRequest
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub
from occupied_server import NARROW, completion, stream
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from otlp_collector import Collector, attributes, running_collector
from server_process import Server, running_server
from tiny_models import tiny_bert

from predictor.errors import StartupError
from predictor.serving.startup import plan_startup
from predictor.settings import Settings
from scripts.free_ports import free_port

ROOT = "text_completion smol"
PHASES = ("queue", "prefill", "decode")


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with running_collector() as collector:
        yield collector


@pytest.fixture(scope="module")
def traced_server(
    model_path: Path, collector: Collector, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("traced") / "log"
    options = ("--otlp-traces-endpoint", collector.url, "--log-text", "--log-format", "json", *NARROW)
    with running_server(model_path, log, *options) as server:
        yield server


class Caller:
    """A client's own span, as its `traceparent` header tells of it (https://www.w3.org/TR/trace-context/)."""

    def __init__(self, sampled: bool = True) -> None:
        self.trace_id = secrets.token_hex(16)
        self.span_id = secrets.token_hex(8)
        self.headers = {"traceparent": f"00-{self.trace_id}-{self.span_id}-{'01' if sampled else '00'}"}


def post(server: Server, path: str, body: dict[str, Any], headers: dict[str, str]) -> httpx.Response:
    response = httpx.post(server.http_url + path, json=body, headers=headers, timeout=60)
    assert response.status_code == 200, response.text
    return response


def assert_child_of(caller: Caller, root: Span) -> None:
    assert (root.trace_id.hex(), root.parent_span_id.hex()) == (caller.trace_id, caller.span_id)


def test_a_request_gives_a_span_with_its_phases(traced_server: Server, collector: Collector) -> None:
    caller, before = Caller(), time.time_ns()
    body = completion(traced_server, 4, temperature=0.5, top_p=0.9)
    headers = {**caller.headers, "x-request-id": "traced"}
    usage = post(traced_server, "/v1/completions", body, headers).json()["usage"]
    after = time.time_ns()
    spans = collector.trace(caller.trace_id, 4)
    root = spans[ROOT]
    assert_child_of(caller, root)
    assert root.kind == Span.SPAN_KIND_SERVER
    assert collector.services == {"kserve-llamacpp"}
    found = attributes(root)
    assert 0 < found.pop("gen_ai.response.time_to_first_chunk") < (after - before) / 1e9
    assert found == {
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "kserve-llamacpp",
        "gen_ai.request.model": "smol",
        "gen_ai.response.model": "smol",
        "gen_ai.response.id": "traced",
        "gen_ai.request.max_tokens": 4,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 0.9,
        "gen_ai.request.top_k": 40,
        "gen_ai.usage.input_tokens": usage["prompt_tokens"],
        "gen_ai.usage.output_tokens": 4,
        "gen_ai.usage.cache_read.input_tokens": usage["prompt_tokens_details"]["cached_tokens"],
        "gen_ai.response.finish_reasons": ["length"],
    }
    phases = [spans[name] for name in PHASES]
    assert {phase.parent_span_id for phase in phases} == {root.span_id}
    times = [root.start_time_unix_nano]
    for phase in phases:
        assert phase.start_time_unix_nano == times[-1]
        times.append(phase.end_time_unix_nano)
    times.append(root.end_time_unix_nano)
    assert times == sorted(times)
    assert before - 50e6 < times[0] < times[-1] < after + 50e6


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/models/smol:predict", {"instances": [{"prompt": "The sea", "max_tokens": 2}]}),
        (
            "/v2/models/smol/infer",
            {
                "inputs": [{"name": "prompt", "datatype": "BYTES", "shape": [1], "data": ["The sea"]}],
                "parameters": {"max_tokens": 2},
            },
        ),
        ("/v2/models/smol/generate", {"text_input": "The sea", "parameters": {"max_tokens": 2}}),
        (
            "/v1/chat/completions",
            {"model": "smol", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2},
        ),
    ],
)
def test_the_callers_trace_goes_on_over_http(
    traced_server: Server, collector: Collector, path: str, body: dict[str, Any]
) -> None:
    caller = Caller()
    post(traced_server, path, body, caller.headers)
    assert_child_of(caller, collector.trace(caller.trace_id, 4)[ROOT])


def test_the_callers_trace_goes_on_over_grpc(traced_server: Server, collector: Collector) -> None:
    caller = Caller()
    request = ModelInferRequest(model_name="smol")
    request.parameters["max_tokens"].int64_param = 2
    prompt = request.inputs.add(name="prompt", datatype="BYTES", shape=[1])
    prompt.contents.bytes_contents.append(b"The sea")
    with grpc.insecure_channel(traced_server.grpc_url) as channel:
        GRPCInferenceServiceStub(channel).ModelInfer(request, metadata=list(caller.headers.items()))
    assert_child_of(caller, collector.trace(caller.trace_id, 4)[ROOT])


def test_a_client_that_leaves_gives_the_phases_it_got_to(traced_server: Server, collector: Collector) -> None:
    caller = Caller()
    body = completion(traced_server, 10, stream=True)
    url = f"{traced_server.http_url}/v1/completions"
    with stream(traced_server), httpx.stream("POST", url, json=body, headers=caller.headers) as waiting:
        assert waiting.status_code == 200
        time.sleep(0.3)
    spans = collector.trace(caller.trace_id, 2)
    assert attributes(spans[ROOT])["gen_ai.response.finish_reasons"] == ["abort"]
    assert spans[ROOT].status.code == Status.STATUS_CODE_UNSET
    assert spans["queue"].end_time_unix_nano - spans["queue"].start_time_unix_nano > 0.2e9


def test_text_is_logged_where_it_is_asked_for_and_never_traced(
    traced_server: Server, collector: Collector
) -> None:
    caller, prompt = Caller(), 'Héliotrope\n"sea"'
    headers = {**caller.headers, "x-request-id": "with-text"}
    body = completion(traced_server, 3, prompt=prompt)
    answer = post(traced_server, "/v1/completions", body, headers).json()["choices"][0]["text"]
    collector.trace(caller.trace_id, 4)  # logged before
    lines = [json.loads(line) for line in traced_server.log.read_text().splitlines()]
    (line,) = [line for line in lines if line.get("request_id") == "with-text"]
    assert (line["prompt"], line["answer"]) == (prompt, answer)
    assert answer
    assert not [span for span in collector.spans if "liotrope" in str(span)]


def test_a_request_without_a_caller_has_a_trace_of_its_own_and_an_unsampled_one_none(
    traced_server: Server, collector: Collector
) -> None:
    unsampled = Caller(sampled=False)
    post(traced_server, "/v1/completions", completion(traced_server, 1), unsampled.headers)
    post(traced_server, "/v1/completions", completion(traced_server, 1), {"x-request-id": "alone"})

    def alone() -> list[Span]:
        spans = list(collector.spans)
        return [s for s in spans if attributes(s).get("gen_ai.response.id") == "alone"]

    deadline = time.monotonic() + 20
    while not alone():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert alone()[0].parent_span_id == b""
    assert unsampled.trace_id not in {span.trace_id.hex() for span in collector.spans}


def test_a_dead_collector_costs_neither_answers_nor_the_shutdown(model_path: Path, tmp_path: Path) -> None:
    nobody = "http://127.0.0.1:9/v1/traces"
    with running_server(model_path, tmp_path / "log", "--otlp-traces-endpoint", nobody) as server:
        for _ in range(3):
            post(server, "/v1/completions", completion(server, 1), {})
        started = time.monotonic()
        server.process.terminate()
        assert server.process.wait(60) == 0
        assert time.monotonic() - started < 7
    assert "trace" in (tmp_path / "log").read_text()


def test_without_the_extra_the_start_says_what_to_install(
    model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp", None)
    settings = Settings(
        model=str(model_path), http_port=free_port(), otlp_traces_endpoint="http://collector:4318/v1/traces"
    )
    with pytest.raises(StartupError, match=r"pip install 'kserve-llamacpp\[otel\]'"):
        plan_startup(settings)


def test_an_embedding_is_called_one(tmp_path: Path, collector: Collector) -> None:
    caller = Caller()
    model = tiny_bert(tmp_path / "bert.gguf", gguf.PoolingType.MEAN).path
    with running_server(model, tmp_path / "log", "--otlp-traces-endpoint", collector.url) as server:
        usage = post(server, "/v1/embeddings", {"model": "smol", "input": "The sea"}, caller.headers).json()
    root = collector.trace(caller.trace_id, 3)["embeddings smol"]
    assert_child_of(caller, root)
    found = attributes(root)
    assert found["gen_ai.operation.name"] == "embeddings"
    assert found["gen_ai.usage.input_tokens"] == usage["usage"]["prompt_tokens"] > 0
    assert "gen_ai.request.temperature" not in found


def test_the_last_spans_are_sent_before_the_process_ends(
    model_path: Path, tmp_path: Path, collector: Collector
) -> None:
    caller = Caller()
    with running_server(model_path, tmp_path / "log", "--otlp-traces-endpoint", collector.url) as server:
        post(server, "/v1/completions", completion(server, 1), caller.headers)
    assert ROOT in collector.trace(caller.trace_id, 4, seconds=0)
