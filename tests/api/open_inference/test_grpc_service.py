"""gRPC beyond kserve's methods, on a real gRPC server with a scripted engine."""

from __future__ import annotations

import asyncio
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from kserve import ModelRepository
from kserve.protocol.grpc import grpc_predict_v2_pb2 as messages
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub
from scripted_engine import FOREVER, ScriptedEngine, say

from predictor.api.open_inference import triton_pb2 as triton
from predictor.api.open_inference.dataplane import ServingDataPlane
from predictor.api.open_inference.grpc_calls import ServingInterceptor
from predictor.api.open_inference.grpc_service import SERVICE
from predictor.api.open_inference.model import LlamaCppModel
from predictor.engine.request import Delta
from predictor.errors import QueueFull
from predictor.generation.served_models import ServedModels
from predictor.generation.text import TextGenerator
from predictor.serving.grpc_server import ServingGRPCServer
from predictor.serving.lifecycle import ClosedRepository
from scripts.free_ports import free_port


@dataclass
class GrpcServer:
    address: str
    engine: ScriptedEngine
    models: ServedModels


@pytest.fixture
def server() -> Iterator[GrpcServer]:
    engine = ScriptedEngine(scripts=[say("Hel", "lo")])
    models = ServedModels("tiny")
    models.publish(TextGenerator("tiny", engine, None))
    registry = ModelRepository()
    registry.update(LlamaCppModel("tiny", models))
    port = free_port()
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        running = ServingGRPCServer(
            f"127.0.0.1:{port}",
            ServingDataPlane(registry, models),
            ClosedRepository(registry),
            models=models,
            interceptors=[ServingInterceptor(None, open_routes=True)],
            max_message_bytes=8 * 2**20,
            certificate=None,
            grace_period=0,
        )
        task = asyncio.create_task(running.start(1))
        await asyncio.wait((task, asyncio.create_task(stopped.wait())), return_when=asyncio.FIRST_COMPLETED)
        await running.stop()

    stopped = asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        grpc.channel_ready_future(channel).result(30)
    try:
        yield GrpcServer(f"127.0.0.1:{port}", engine, models)
    finally:
        loop.call_soon_threadsafe(stopped.set)
        thread.join()


@pytest.fixture
def channel(server: GrpcServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address) as channel:
        yield channel


def infer(prompt: str = "Hi", **fields: Any) -> Any:
    request = messages.ModelInferRequest(model_name="tiny", id="mine", **fields)
    tensor = request.inputs.add(name="prompt", datatype="BYTES", shape=[1])
    tensor.contents.bytes_contents.append(prompt.encode())
    return request


def stream(channel: grpc.Channel, requests: Any) -> Any:
    method = channel.stream_stream(
        f"/{SERVICE}/ModelStreamInfer",
        request_serializer=messages.ModelInferRequest.SerializeToString,
        response_deserializer=triton.ModelStreamInferResponse.FromString,
    )
    return method(requests, timeout=20)


def pieces(responses: Any) -> list[tuple[str, str, bool]]:
    """The text, the finish reason and whether it is the last, of each response."""
    found = []
    for response in responses:
        assert not response.error_message
        answer = messages.ModelInferResponse.FromString(response.infer_response)
        assert (answer.id, answer.model_name) == ("mine", "tiny")
        values = {output.name: output.contents.bytes_contents for output in answer.outputs}
        last = answer.parameters["triton_final_response"].bool_param
        found.append((values["text"][0].decode(), values["finish_reason"][0].decode(), last))
    return found


def test_a_streamed_answer_comes_in_pieces(channel: grpc.Channel, server: GrpcServer) -> None:
    answer = stream(channel, iter([infer()]))
    assert pieces(answer) == [("Hel", "", False), ("lo", "", False), ("", "stop", True)]
    assert bytes(server.engine.requests[0].prompt) == b"Hi"


def test_requests_of_one_stream_run_side_by_side(channel: grpc.Channel, server: GrpcServer) -> None:
    server.engine.scripts = [say("a", "b", "c")]
    answer = pieces(stream(channel, iter([infer("x"), infer("y")])))
    assert sorted(text for text, _, _ in answer) == ["", "", "a", "a", "b", "b", "c", "c"]
    assert sum(last for _, _, last in answer) == 2


def test_a_bad_request_ends_no_stream(channel: grpc.Channel, server: GrpcServer) -> None:
    unknown, two = infer(), infer()
    unknown.model_name = "nope"
    two.inputs[0].shape[0] = 2
    two.inputs[0].contents.bytes_contents.append(b"Hi")
    responses = list(stream(channel, iter([unknown, two, infer("")])))
    errors = sorted(response.error_message for response in responses)
    assert [len(errors), "nope" in "".join(errors), "one prompt, not 2" in "".join(errors)] == [3, True, True]
    assert "the prompt is empty" in "".join(errors)
    assert len(pieces(stream(channel, iter([infer()])))) == 3
    server.engine.refusal = QueueFull("full")
    assert [response.error_message for response in stream(channel, iter([infer()]))] == ["full"]


def test_who_leaves_a_stream_frees_its_sequence(channel: grpc.Channel, server: GrpcServer) -> None:
    server.engine.scripts = [[Delta("a"), FOREVER]]
    answer = stream(channel, iter([infer()]))
    next(answer)
    answer.cancel()
    deadline = time.monotonic() + 5
    while not server.engine.streams[0].cancelled.is_set():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("fraction", [0.25, 0.0, 1.5])
def test_a_fraction_in_a_parameter(channel: grpc.Channel, server: GrpcServer, fraction: float) -> None:
    """Triton's field for it is one that kserve's generated class doesn't know."""
    request = infer()
    request.parameters["temperature"].MergeFromString(b"\x21" + struct.pack("<d", fraction))
    request.parameters["max_tokens"].MergeFromString(b"\x28\x07")
    GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=10)
    params = server.engine.requests[0].params
    assert (params.temperature, params.max_tokens) == (fraction, 7)


def test_too_many_elements_are_not_read(channel: grpc.Channel) -> None:
    many, raw, shaped = infer(), infer(), infer()
    many.inputs[0].contents.bytes_contents.extend([b""] * 500_000)
    raw.inputs[0].ClearField("contents")
    raw.raw_input_contents.append(b"\0" * 2_000_000)
    shaped.inputs[0].shape[0] = 1000
    for request, expected in ((many, "more than 2048"), (raw, "more than 2048"), (shaped, "at most 272")):
        with pytest.raises(grpc.RpcError) as error:
            GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=10)
        assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert expected in error.value.details()


def test_health(channel: grpc.Channel, server: GrpcServer) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    serving, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
    for name in ("", "tiny", SERVICE):
        assert stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=5).status == serving
    watched = stub.Watch(health_pb2.HealthCheckRequest(), timeout=20)
    assert next(watched).status == serving
    server.models.withdraw_all()
    assert next(watched).status == not_serving
    assert stub.Check(health_pb2.HealthCheckRequest(service="tiny"), timeout=5).status == not_serving
    watched.cancel()
    with pytest.raises(grpc.RpcError) as error:
        stub.Check(health_pb2.HealthCheckRequest(service="nope"), timeout=5)
    assert error.value.code() == grpc.StatusCode.NOT_FOUND


def test_what_tritons_clients_ask(channel: grpc.Channel) -> None:
    def ask(name: str, request: Any, answer: Any) -> Any:
        method = channel.unary_unary(
            f"/{SERVICE}/{name}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=answer.FromString,
        )
        return method(request, timeout=10)

    config = ask("ModelConfig", triton.ModelConfigRequest(name="tiny"), triton.ModelConfigResponse).config
    assert [(item.name, item.data_type, list(item.dims)) for item in config.input] == [
        ("prompt", triton.TYPE_STRING, [-1]),
        ("system", triton.TYPE_STRING, [-1]),
    ]
    assert config.output[2].data_type == triton.TYPE_INT32
    index = ask("RepositoryIndex", triton.RepositoryIndexRequest(), triton.RepositoryIndexResponse)
    assert [(model.name, model.state) for model in index.models] == [("tiny", "READY")]
    statistics = ask("ModelStatistics", triton.ModelStatisticsRequest(), triton.ModelStatisticsResponse)
    assert [model.name for model in statistics.model_stats] == ["tiny"]
    with pytest.raises(grpc.RpcError) as error:
        ask("ModelConfig", triton.ModelConfigRequest(name="nope"), triton.ModelConfigResponse)
    assert error.value.code() == grpc.StatusCode.NOT_FOUND


def test_pings_do_not_end_a_long_answer(server: GrpcServer) -> None:
    """gRPC allows a few pings in five minutes unless a server says otherwise."""
    server.engine.scripts = [[Delta("a"), FOREVER]]
    options = [
        ("grpc.keepalive_time_ms", 1100),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_time_between_pings_ms", 1100),
    ]
    with grpc.insecure_channel(server.address, options=options) as channel:
        answer = stream(channel, iter([infer()]))
        next(answer)
        time.sleep(6)
        assert answer.is_active()
        answer.cancel()
