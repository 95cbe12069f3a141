"""Clients that leave, stall, or send anything but requests."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from calls import PATIENCE, ask, bystanders, connect, metric, post_bytes, resident_mib, wait_until_idle
from canaries import Canaries
from google.protobuf.message import DecodeError
from kserve.protocol.grpc import grpc_predict_v2_pb2 as messages
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub
from server_process import Server, running_server

pytestmark = [pytest.mark.faults, pytest.mark.timeout(3 * PATIENCE)]

DISCONNECTS = 1000
FUZZED = 400
SERVICE = "/inference.GRPCInferenceService/"


@pytest.fixture(scope="module")
def server(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(model_path, tmp_path_factory.mktemp("faults") / "log") as server:
        yield server


def bodies(tokens: int) -> list[tuple[str, Any]]:
    """A request of each protocol."""
    sampling = {"max_tokens": tokens, "ignore_eos": True}
    chat = {"model": "smol", "messages": [{"role": "user", "content": "Tell me a story."}], **sampling}
    tensor = {"name": "prompt", "shape": [1], "datatype": "BYTES", "data": ["The sea"]}
    return [
        ("/v1/completions", {"model": "smol", "prompt": "The sea", "stream": True, **sampling}),
        ("/v1/completions", {"model": "smol", "prompt": ["The sea", "A"], "n": 2, **sampling}),
        ("/openai/v1/chat/completions", {**chat, "stream": True}),
        ("/v1/models/smol:predict", {"instances": [{"prompt": "The sea", **sampling}]}),
        ("/v2/models/smol/infer", {"inputs": [tensor], "parameters": sampling}),
        ("/v2/models/smol/generate_stream", {"text_input": "The sea", "parameters": sampling}),
    ]


def leave(server: Server, seed: int) -> str:
    """Begin a call and leave it somewhere in its way."""
    chance = random.Random(seed)
    if chance.random() < 0.15:
        return leave_grpc(server, chance)
    path, body = chance.choice(bodies(chance.choice([1, 8, 400])))
    request = post_bytes(path, body)
    point = chance.choice(["head", "body", "sent", "answer", "answer"])
    with connect(server) as connection:
        if point in ("head", "body"):
            connection.sendall(request[: chance.randrange(1, 40 if point == "head" else len(request))])
        else:
            connection.sendall(request)
        if point == "answer":
            connection.settimeout(chance.random())
            with contextlib.suppress(TimeoutError):
                connection.recv(chance.randrange(1, 4000))
        if chance.random() < 0.5:  # a reset instead of an orderly end
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return point


def leave_grpc(server: Server, chance: random.Random) -> str:
    message = infer_request(400)
    with grpc.insecure_channel(server.grpc_url) as channel:
        call = GRPCInferenceServiceStub(channel).ModelInfer.future(message)
        try:
            call.result(timeout=chance.random() * 0.3)
        except (grpc.FutureTimeoutError, grpc.RpcError):
            call.cancel()
    return "grpc"


def test_a_thousand_random_disconnects(server: Server, record: Any) -> None:
    ask(server, Canaries())
    before = resident_mib(server)
    with bystanders(server) as canaries, ThreadPoolExecutor(16) as pool:
        points = list(pool.map(lambda seed: leave(server, seed), range(DISCONNECTS)))
    wait_until_idle(server)
    ask(server, Canaries())
    assert "Traceback" not in server.log.read_text()
    kinds = ", ".join(f"{points.count(p)} {p}" for p in ("head", "body", "sent", "answer", "grpc"))
    record(
        "Random disconnects",
        DISCONNECTS,
        DISCONNECTS,
        0,
        f"left in: {kinds}; {canaries.checked} answers of others beside them, all whole and their own; "
        f"all sequences freed; memory {before:.0f} to {resident_mib(server):.0f} MiB",
    )


def test_slow_readers(server: Server, record: Any) -> None:
    """Answers of several megabytes to clients that do not read for a while, and one that never does."""
    body = {"model": "smol", "prompt": "The sea", "max_tokens": 600, "ignore_eos": True, "stream": True}
    request = post_bytes("/v1/completions", {**body, "logprobs": 20}, Connection="close")
    slow = [connect(server, receive_buffer=4096) for _ in range(4)]
    for connection in slow:
        connection.sendall(request)
    with bystanders(server) as canaries:
        slow.pop().close()
        while canaries.checked < 20:
            time.sleep(0.1)
    whole = 0
    sizes = []
    for connection in slow:
        with connection:
            answer = b""
            while piece := connection.recv(65536):
                answer += piece
        sizes.append(len(answer))
        whole += b"data: [DONE]" in answer and b'"finish_reason":"length"' in answer
    assert whole == len(slow) == 3
    wait_until_idle(server)
    record(
        "Slow readers",
        4,
        4,
        0,
        f"three read {min(sizes) / 2**20:.1f} MiB each only after {canaries.checked} answers of others, "
        "and got all of it; one never read and was freed",
    )


def test_fuzzed_http(server: Server, record: Any) -> None:
    """Real requests with bytes changed, cut, doubled or replaced, in head and body."""

    def send(seed: int) -> str:
        chance = random.Random(seed)
        path, body = chance.choice(bodies(2))
        request = bytearray(post_bytes(path, body, Connection="close"))
        for _ in range(chance.randrange(1, 6)):
            place = chance.randrange(len(request))
            match chance.randrange(4):
                case 0:
                    request[place] = chance.randrange(256)
                case 1:
                    del request[place : place + chance.randrange(1, 20)]
                case 2:
                    request[place:place] = request[place : place + chance.randrange(1, 200)]
                case 3:
                    request[place:place] = chance.choice([b"\0", b"\r\n", b"\xff" * 9, b"1e999", b"[" * 5000])
        with connect(server) as connection:
            connection.settimeout(3)
            connection.sendall(request)
            try:
                answer = connection.recv(4096)
            except (TimeoutError, ConnectionError):  # it waits for the rest of a body
                return "none"
        return answer[9:12].decode("latin-1") if answer.startswith(b"HTTP/") else "closed"

    with bystanders(server, 1) as canaries, ThreadPoolExecutor(12) as pool:
        statuses = list(pool.map(send, range(FUZZED)))
    assert "500" not in statuses
    wait_until_idle(server)
    assert "Traceback" not in server.log.read_text()
    kinds = ", ".join(f"{statuses.count(s)} {s}" for s in sorted(set(statuses)))
    record(
        "Fuzzed HTTP and SSE requests", FUZZED, FUZZED, 0, f"answers: {kinds}; {canaries.checked} of others"
    )


def infer_request(max_tokens: int) -> messages.ModelInferRequest:
    prompt = messages.ModelInferRequest.InferInputTensor(name="prompt", datatype="BYTES", shape=[1])
    prompt.contents.bytes_contents.append(b"The sea")
    message = messages.ModelInferRequest(model_name="smol", inputs=[prompt])
    message.parameters["max_tokens"].int64_param = max_tokens
    return message


def change_a_field(message: messages.ModelInferRequest, chance: random.Random) -> None:
    tensor = message.inputs[0]
    match chance.randrange(9):
        case 0:
            message.model_name = chance.choice(["", "smol\0", "\u2028", "x" * 9999])
        case 1:
            tensor.name = chance.choice(["", "system", "promPt"])
        case 2:
            tensor.datatype = chance.choice(["", "bytes", "INT32", "FP16"])
        case 3:
            tensor.shape[:] = chance.choice([[], [0], [-1], [2**62], [1] * 99, [2, 2**62]])
        case 4:
            tensor.contents.bytes_contents[:] = chance.choice(
                [[], [b"\xff\xfe"], [b"a"] * 99, [b"a" * 99999]]
            )
        case 5:
            tensor.contents.int64_contents.extend(chance.choice([[7], [2**62] * 999]))
        case 6:
            message.raw_input_contents.append(chance.randbytes(chance.randrange(99)))
        case 7:
            name = chance.choice(["max_tokens", "temperature", "stop", "top_k", "no_such_parameter"])
            message.parameters[name].string_param = chance.choice(["", "nan", "-1", "1e999", "[" * 999])
        case 8:
            message.inputs.add().CopyFrom(tensor)


def test_fuzzed_grpc(server: Server, record: Any) -> None:
    """Bytes that are no message, messages with fields changed, unknown methods."""
    methods = ["ModelInfer"] * 6 + ["ModelMetadata", "ModelReady", "RepositoryModelLoad", "NoSuchMethod"]

    def is_message(method: str, data: bytes) -> bool:
        try:
            getattr(messages, f"{method}Request").FromString(data)
        except (AttributeError, DecodeError):
            return False
        return True

    def send(seed: int) -> str:
        chance = random.Random(seed)
        message = infer_request(2)
        for _ in range(chance.randrange(4)):
            change_a_field(message, chance)
        data = bytearray(message.SerializeToString())
        for _ in range(chance.randrange(6) if chance.random() < 0.5 else 0):
            place = chance.randrange(len(data))
            data[place : place + chance.randrange(3)] = chance.randbytes(chance.randrange(4))
        if chance.random() < 0.1:
            data = bytearray(chance.randbytes(chance.randrange(5000)))
        method = chance.choice(methods)
        with grpc.insecure_channel(server.grpc_url) as channel:
            try:
                channel.unary_unary(SERVICE + method)(bytes(data), timeout=PATIENCE)
            except grpc.RpcError as error:
                code = str(error.code().name)
                # To bytes that are no message gRPC itself answers UNKNOWN; ours must not have failed.
                if code in ("UNKNOWN", "INTERNAL") and is_message(method, bytes(data)):
                    raise
                return code
        return "OK"

    with bystanders(server, 1) as canaries, ThreadPoolExecutor(8) as pool:
        codes = list(pool.map(send, range(FUZZED)))
    kinds = ", ".join(f"{codes.count(c)} {c}" for c in sorted(set(codes)))
    assert codes.count("INVALID_ARGUMENT") > FUZZED / 10, kinds
    assert "Internal server error" not in server.log.read_text(), kinds
    assert "Traceback" not in server.log.read_text()
    wait_until_idle(server)
    record("Fuzzed gRPC calls", FUZZED, FUZZED, 0, f"answers: {kinds}; {canaries.checked} of others")


def test_the_kv_cache_runs_full(model_path: Path, tmp_path: Path, record: Any) -> None:
    """Answers that need three times the cells there are, and more than admission expects of them."""
    options = ("--max-sequences", "16", "--no-enable-grpc")
    with running_server(model_path, tmp_path / "log", *options, context_tokens=1024) as server:
        canaries = Canaries()

        def one(_: int) -> int:
            word, prompt = canaries.prompt()
            body = {
                "model": "smol",
                "prompt": prompt,
                "max_tokens": 500,
                "ignore_eos": True,
                "temperature": 0,
            }
            answer = httpx.post(f"{server.http_url}/v1/completions", json=body, timeout=PATIENCE).json()
            canaries.check(word, answer["choices"][0]["text"])
            return int(answer["usage"]["completion_tokens"])

        with ThreadPoolExecutor(6) as pool:
            lengths = list(pool.map(one, range(6)))
        canaries.assert_own()
        assert lengths == [500] * 6
        preemptions = metric(server, "num_preemptions_total")
        assert preemptions > 0
        ask(server, Canaries())
    record(
        "KV cache exhausted",
        6,
        6,
        0,
        f"1,024 cells for 6 x 530 tokens: {preemptions:.0f} preemptions, every answer whole and its own",
    )
