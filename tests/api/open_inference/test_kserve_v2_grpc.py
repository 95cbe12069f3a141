"""KServe's V2 protocol over gRPC, with kserve's own client and messages, against a running server."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from kserve import InferenceGRPCClient, InferInput, InferRequest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as messages
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub
from occupied_server import ENDLESS, assert_freed, stream, wait_until_running
from server_process import Server

COUNTING = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12,"
GREEDY: dict[str, Any] = {"temperature": "0", "max_tokens": 12}
OUTPUTS = ["text", "finish_reason", "prompt_tokens", "completion_tokens"]


@pytest.fixture
def stub(server: Server) -> Iterator[GRPCInferenceServiceStub]:
    with grpc.insecure_channel(server.grpc_url) as channel:
        yield GRPCInferenceServiceStub(channel)


@pytest.fixture
def narrow_stub(narrow_server: Server) -> Iterator[GRPCInferenceServiceStub]:
    with grpc.insecure_channel(narrow_server.grpc_url) as channel:
        yield GRPCInferenceServiceStub(channel)


def call(server: Server, *inputs: Any, raw: tuple[bytes, ...] = (), **parameters: Any) -> Any:
    """A ModelInfer message whose tensors carry their contents, where `raw` doesn't."""
    request = messages.ModelInferRequest(
        model_name=server.model_name, inputs=inputs or [contents()], raw_input_contents=raw
    )
    fields = {bool: "bool_param", int: "int64_param", str: "string_param"}
    for name, value in parameters.items():
        setattr(request.parameters[name], fields[type(value)], value)
    return request


def contents(
    *elements: bytes, name: str = "prompt", datatype: str = "BYTES", shape: list[int] | None = None
) -> Any:
    made = messages.ModelInferRequest.InferInputTensor(name=name, datatype=datatype)
    made.contents.bytes_contents.extend(elements or [b"Hi"])
    made.shape.extend([len(elements) or 1] if shape is None else shape)
    return made


def endless(server: Server) -> Any:
    return call(server, max_tokens=ENDLESS, ignore_eos=True)


def test_contents_instead_of_raw_bytes(stub: GRPCInferenceServiceStub, server: Server) -> None:
    answer = stub.ModelInfer(call(server, contents(COUNTING.encode()), **GREEDY), timeout=60)
    outputs = {output.name: output for output in answer.outputs}
    assert not answer.raw_output_contents
    assert b"13" in outputs["text"].contents.bytes_contents[0]
    assert list(outputs["completion_tokens"].contents.int_contents) == [12]
    wanted = call(server, contents(COUNTING.encode()), **GREEDY)
    wanted.outputs.add(name="finish_reason")
    assert [output.name for output in stub.ModelInfer(wanted, timeout=60).outputs] == ["finish_reason"]


@pytest.mark.parametrize("raw", [True, False])
async def test_kserves_own_client(server: Server, raw: bool) -> None:
    async with InferenceGRPCClient(server.grpc_url) as client:
        assert await client.is_server_ready()
        assert await client.is_model_ready(server.model_name)
        made = InferInput("prompt", [1], "BYTES", data=[COUNTING])
        if raw:
            made.set_data_from_numpy(np.array([COUNTING], dtype=np.object_))
        answer = await client.infer(InferRequest(server.model_name, [made], "mine", parameters=GREEDY))
        assert answer.id == "mine"
        assert "13" in answer.outputs[0].as_numpy()[0].decode()
        assert [output.name for output in answer.outputs] == list(OUTPUTS)
        with pytest.raises(grpc.RpcError) as error:
            await client.is_model_ready("nope")
        assert error.value.code() == grpc.StatusCode.NOT_FOUND


def test_health(stub: GRPCInferenceServiceStub, server: Server) -> None:
    assert stub.ServerLive(messages.ServerLiveRequest()).live
    assert stub.ServerReady(messages.ServerReadyRequest()).ready
    assert stub.ModelReady(messages.ModelReadyRequest(name=server.model_name)).ready


def test_an_unknown_model(stub: GRPCInferenceServiceStub, server: Server) -> None:
    infer = call(server)
    infer.model_name = "nope"
    for ask, message in (
        (stub.ModelInfer, infer),
        (stub.ModelReady, messages.ModelReadyRequest(name="nope")),
        (stub.ModelMetadata, messages.ModelMetadataRequest(name="nope")),
    ):
        with pytest.raises(grpc.RpcError) as error:
            ask(message)
        assert error.value.code() == grpc.StatusCode.NOT_FOUND
        assert "nope" in error.value.details()


@pytest.mark.parametrize(
    ("inputs", "parameters", "expected"),
    [
        ([contents(name="text")], {}, "unknown input 'text'"),
        ([contents(name="system")], {}, "input prompt is missing"),
        ([contents(), contents()], {}, "given twice"),
        ([contents(datatype="INT32")], {}, "prompt must be BYTES, not INT32"),
        ([contents(datatype="TEXT")], {}, "invalid content type"),
        ([contents(shape=[])], {}, "must have shape [n]"),
        ([contents(shape=[0])], {}, "must have shape [n]"),
        ([contents(shape=[2])], {}, "can't be read as 2 texts"),
        ([contents(shape=[2**62])], {}, "at most 272 fit"),
        ([contents(b"\xff")], {}, "UTF-8"),
        ([contents(b"")], {}, "the prompt is empty"),
        ([contents(b"word " * 5000)], {}, "the prompt has 5001 tokens"),
        ([contents(b"a"), contents(b"b", b"c", name="system")], {}, "system has 2 elements"),
        ([contents()], {"max_token": 3}, "unknown field 'max_token'"),
        ([contents()], {"max_tokens": "many"}, "max_tokens: must be a valid integer"),
        ([contents()], {"temperature": -1}, "temperature must be between 0 and"),
        ([contents()], {"ignore_eos": 1}, "ignore_eos: must be a valid boolean"),
        ([contents()], {"logit_bias": "x"}, "logit_bias: must be a JSON object"),
    ],
)
def test_bad_requests(
    stub: GRPCInferenceServiceStub, server: Server, inputs: Any, parameters: Any, expected: str
) -> None:
    with pytest.raises(grpc.RpcError) as error:
        stub.ModelInfer(call(server, *inputs, **parameters), timeout=60)
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert expected in error.value.details()


@pytest.mark.parametrize(
    "raw",
    [(b"xy",), (struct.pack("<I", 80) + b"Hi",), (struct.pack("<I", 1) + b"\xff",), (b"",), (b"", b"")],
)
def test_malformed_raw_bytes(stub: GRPCInferenceServiceStub, server: Server, raw: tuple[bytes, ...]) -> None:
    prompt = messages.ModelInferRequest.InferInputTensor(name="prompt", datatype="BYTES", shape=[1])
    with pytest.raises(grpc.RpcError) as error:
        stub.ModelInfer(call(server, prompt, raw=raw), timeout=60)
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_a_message_that_is_too_large(stub: GRPCInferenceServiceStub, server: Server) -> None:
    with pytest.raises(grpc.RpcError) as error:
        stub.ModelInfer(call(server, contents(b"word " * 2_000_000)), timeout=60)
    assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_parameter_without_a_value(stub: GRPCInferenceServiceStub, server: Server) -> None:
    request = call(server)
    request.parameters["temperature"].SetInParent()
    with pytest.raises(grpc.RpcError) as error:
        stub.ModelInfer(request)
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "temperature has no value" in error.value.details()


def test_an_unknown_output(stub: GRPCInferenceServiceStub, server: Server) -> None:
    request = call(server)
    request.outputs.add(name="logits")
    with pytest.raises(grpc.RpcError) as error:
        stub.ModelInfer(request)
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "unknown output 'logits'" in error.value.details()


def test_nobody_can_take_the_model_down(stub: GRPCInferenceServiceStub, server: Server) -> None:
    name = server.model_name
    for action, message in (
        (stub.RepositoryModelLoad, messages.RepositoryModelLoadRequest(model_name=name)),
        (stub.RepositoryModelUnload, messages.RepositoryModelUnloadRequest(model_name=name)),
    ):
        with pytest.raises(grpc.RpcError) as error:
            action(message)
        assert error.value.code() == grpc.StatusCode.PERMISSION_DENIED
        assert "can't be loaded or unloaded" in error.value.details()
    assert stub.ModelReady(messages.ModelReadyRequest(name=name)).ready


def test_a_full_queue(narrow_stub: GRPCInferenceServiceStub, narrow_server: Server) -> None:
    with stream(narrow_server), stream(narrow_server), pytest.raises(grpc.RpcError) as error:
        narrow_stub.ModelInfer(call(narrow_server))
    assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "the limit" in error.value.details()


def test_a_cancelled_call_frees_its_sequence(
    narrow_stub: GRPCInferenceServiceStub, narrow_server: Server
) -> None:
    running = narrow_stub.ModelInfer.future(endless(narrow_server))
    wait_until_running(narrow_server)
    assert_freed(narrow_server, running.cancel)
    assert running.cancelled()


def test_a_deadline_frees_the_sequence(narrow_stub: GRPCInferenceServiceStub, narrow_server: Server) -> None:
    running = narrow_stub.ModelInfer.future(endless(narrow_server), timeout=3)
    wait_until_running(narrow_server)
    assert_freed(narrow_server, running.exception)
    assert running.code() == grpc.StatusCode.DEADLINE_EXCEEDED
