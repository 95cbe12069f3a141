"""One model under several names, and what clients are told of it."""

from __future__ import annotations

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from kserve.protocol.grpc import grpc_predict_v2_pb2 as messages
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub
from server_process import Server

NAMES = ["smol", "second", "org/third"]


def test_every_name_is_listed_with_what_the_model_can_do(filling: Server) -> None:
    listed = httpx.get(f"{filling.http_url}/v1/models").json()
    assert listed["models"] == NAMES
    for entry, name in zip(listed["data"], NAMES, strict=True):
        assert entry["id"] == name
        assert entry["parent"] is None
        assert entry["capabilities"] == ["completion"]
        assert entry["max_model_len"] == entry["context_length"] == 512
        assert httpx.get(f"{filling.http_url}/v1/models/{name}").json()["ready"] is True


@pytest.mark.parametrize("name", NAMES)
def test_openais_routes_answer_to_every_name_with_the_first(filling: Server, name: str) -> None:
    body = {"model": name, "prompt": "a", "max_tokens": 1}
    answer = httpx.post(f"{filling.http_url}/v1/completions", json=body, timeout=60)
    assert answer.json()["model"] == "smol"
    assert httpx.post(f"{filling.http_url}/tokenize", json={"model": name, "content": "a"}).status_code == 200


def test_the_other_protocols_answer_to_every_name(filling: Server, platform: str) -> None:
    instances = {"instances": [{"prompt": "a", "max_tokens": 1}]}
    for name in NAMES[:2]:
        v1 = httpx.post(f"{filling.http_url}/v1/models/{name}:predict", json=instances, timeout=60)
        assert v1.status_code == 200
        assert httpx.get(f"{filling.http_url}/v2/models/{name}/ready").status_code == 200
        (figures,) = httpx.get(f"{filling.http_url}/v2/models/{name}/stats").json()["model_stats"]
        assert figures["name"] == name
        assert figures["inference_count"] > 0
    with grpc.insecure_channel(filling.grpc_url) as channel:
        application = (("application", "llamacpp"),)
        for name in NAMES:
            request = messages.ModelReadyRequest(name=name)
            assert (
                GRPCInferenceServiceStub(channel).ModelReady(request, timeout=30, metadata=application).ready
            )
            if platform == "kserve":
                check = health_pb2.HealthCheckRequest(service=name)
                answer = health_pb2_grpc.HealthStub(channel).Check(check, timeout=30)
                assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_metrics_know_the_first_name_only(filling: Server) -> None:
    lines = httpx.get(f"{filling.http_url}/metrics").text.splitlines()
    ours = [line for line in lines if line.startswith("kserve_llamacpp_") and "model_name=" in line]
    assert ours
    assert all('model_name="smol"' in line for line in ours)


def test_health_and_head(filling: Server) -> None:
    for path in ("/health", "/v1/health"):
        assert httpx.get(filling.http_url + path).json() == {"status": "ok"}
        head = httpx.head(filling.http_url + path)
        assert (head.status_code, head.content) == (200, b"")
    for path in ("/v1/models", "/v1/models/second", "/v2/models/smol/config", "/"):
        assert httpx.head(filling.http_url + path).status_code == 200, path
