"""TLS over HTTP and gRPC, with health and metrics on a port of their own, against a real server."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
import httpx
import openai
import pytest
import requests
from certificates import write_certificate
from kserve.protocol.grpc import grpc_predict_v2_pb2 as messages
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub
from server_process import Server, started_server, wait_until_ready

from scripts.free_ports import free_port

KEY = "ann-0123456789abcdef"
BEARER = {"Authorization": f"Bearer {KEY}"}


@dataclass(frozen=True)
class SecureServer:
    """A server over TLS, and the folder of its certificate, which is a mounted Secret in its making."""

    server: Server
    open_url: str
    secret: Path

    @property
    def certificate(self) -> Path:
        return self.secret / "tls.crt"

    def renew(self, version: str) -> None:
        """Exchange certificate and key as the kubelet does."""
        write_certificate(self.secret / version, version)
        (self.secret / "..new").symlink_to(version)
        os.replace(self.secret / "..new", self.secret / "..data")


@pytest.fixture(scope="module")
def secure(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureServer]:
    secret = tmp_path_factory.mktemp("secret")
    write_certificate(secret / "v1")
    (secret / "..data").symlink_to("v1")
    for name in ("tls.crt", "tls.key"):
        (secret / name).symlink_to(f"..data/{name}")
    keys, port = secret / "keys", free_port()
    keys.write_text(KEY)
    options = ["--tls-cert-file", str(secret / "tls.crt"), "--tls-key-file", str(secret / "tls.key")]
    options += ["--api-key-file", str(keys), "--open-port", str(port)]
    with started_server(model_path, tmp_path_factory.mktemp("secure") / "log", *options) as server:
        open_url = f"http://127.0.0.1:{port}"
        wait_until_ready(replace(server, http_url=open_url))
        url = server.http_url.replace("http:", "https:")
        yield SecureServer(replace(server, http_url=url), open_url, secret)


def stub(secure: SecureServer) -> tuple[grpc.Channel, GRPCInferenceServiceStub]:
    credentials = grpc.ssl_channel_credentials(secure.certificate.read_bytes())
    channel = grpc.secure_channel(secure.server.grpc_url, credentials)
    return channel, GRPCInferenceServiceStub(channel)


def test_the_openai_client_over_tls(secure: SecureServer) -> None:
    context = ssl.create_default_context(cafile=secure.certificate)
    client = openai.OpenAI(
        base_url=f"{secure.server.http_url}/v1",
        api_key=KEY,
        http_client=openai.DefaultHttpxClient(verify=context),
    )
    answer = client.completions.create(model="smol", prompt="The sea", max_tokens=2)
    assert answer.choices[0].text
    address = secure.server.http_url.replace("127.0.0.1", "localhost")
    assert f"is ready on {address}\n" in secure.server.log.read_text()
    with pytest.raises(openai.APIConnectionError):
        openai.OpenAI(base_url=f"{secure.server.http_url}/v1", api_key=KEY, max_retries=0).models.list()
    with pytest.raises(httpx.TransportError):
        httpx.get(secure.server.http_url.replace("https:", "http:"))


def test_grpc_over_tls(secure: SecureServer) -> None:
    channel, calls = stub(secure)
    with channel:
        metadata = (("authorization", f"Bearer {KEY}"),)
        assert calls.ServerMetadata(messages.ServerMetadataRequest(), metadata=metadata, timeout=30).name
    with grpc.insecure_channel(secure.server.grpc_url) as plain, pytest.raises(grpc.RpcError):
        GRPCInferenceServiceStub(plain).ServerLive(messages.ServerLiveRequest(), timeout=10)


def test_health_and_metrics_have_their_own_port(secure: SecureServer) -> None:
    verify = str(secure.certificate)
    for path in ("/", "/metrics", "/v2/health/live", "/v2/health/ready", "/v2/models/smol/ready"):
        assert requests.get(secure.open_url + path, timeout=60).status_code == 200, path
        url = secure.server.http_url + path
        status = requests.get(url, verify=verify, timeout=60).status_code
        assert status == (200 if path == "/" else 401), path
        assert requests.get(url, verify=verify, headers=BEARER, timeout=60).status_code == 200, path
    for path in ("/v1/models", "/openapi.json", "/v2/models/smol", "/nope"):
        assert requests.get(secure.open_url + path, headers=BEARER, timeout=60).status_code == 404, path
    assert requests.post(f"{secure.open_url}/v1/completions", headers=BEARER, timeout=60).status_code == 404
    channel, calls = stub(secure)
    with channel, pytest.raises(grpc.RpcError) as refused:
        calls.ServerLive(messages.ServerLiveRequest(), timeout=30)
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_renewed_certificates_are_used_without_a_restart(secure: SecureServer) -> None:
    """Twice, since a watch on the first file would miss the second exchange."""
    for version in ("v2", "v3"):
        secure.renew(version)
        for url in (secure.server.http_url.removeprefix("https://"), secure.server.grpc_url):
            _eventually(lambda url=url, version=version: _subject(url) == version)
    test_the_openai_client_over_tls(secure)
    test_grpc_over_tls(secure)


def _eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def _subject(address: str) -> str:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    host, port = address.split(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2", "http/1.1"])
    with (
        socket.create_connection((host, int(port)), timeout=30) as connection,
        context.wrap_socket(connection) as secured,
    ):
        certificate = x509.load_der_x509_certificate(secured.getpeercert(binary_form=True) or b"")
    return str(certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)


def test_files_that_do_not_belong_together_stop_the_start(tmp_path: Path) -> None:
    certificate, _ = write_certificate(tmp_path / "one")
    _, key = write_certificate(tmp_path / "two")
    command = [sys.executable, "-m", "predictor.cli", "serve", "no.gguf"]
    for options, message in (
        (["--tls-cert-file", str(certificate), "--tls-key-file", str(key)], "can't be used"),
        (["--tls-cert-file", str(certificate)], "needed together"),
    ):
        ended = subprocess.run([*command, *options], capture_output=True, text=True, timeout=120, check=False)
        assert ended.returncode != 0
        assert message in ended.stderr
        assert "Traceback" not in ended.stderr
