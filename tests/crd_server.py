"""A real Kubernetes API server for custom resources: apiextensions-apiserver on etcd, both on free ports.

It has no built-in kinds and no webhooks, but it does what schemas in Python can't: CEL rules, pruning,
server-side apply with field ownership.
"""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import httpx
import yaml
from crd_definitions import definitions
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from processes import stop

from scripts.free_ports import free_ports

MODULE = "k8s.io/apiextensions-apiserver@v0.36.3"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kserve-llamacpp" / "crd-server"
START_SECONDS = 180.0
ESTABLISHED_SECONDS = 180.0
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


@dataclass(frozen=True, slots=True)
class CrdServer:
    """A running server.

    Attributes:
        url: its address.
        client: an HTTP client with an administrator's certificate.
        tls: that certificate, for other clients.
    """

    url: str
    client: httpx.Client
    tls: ssl.SSLContext

    def apply(
        self, path: str, body: dict, *, field_manager: str, force: bool = True, dry_run: bool = False
    ) -> httpx.Response:
        """Server-side apply, refusing fields that the schema doesn't know."""
        query = {"fieldManager": field_manager, "fieldValidation": "Strict", "force": str(force).lower()}
        return self.client.patch(
            path,
            params=query | ({"dryRun": "All"} if dry_run else {}),
            content=yaml.safe_dump(body),
            headers={"content-type": "application/apply-patch+yaml"},
        )

    def create(self, path: str, body: dict) -> httpx.Response:
        """Plain creation, refusing fields that the schema doesn't know."""
        return self.client.post(path, params={"fieldValidation": "Strict"}, json=body)


def missing_tool() -> str | None:
    """What this machine lacks to run the server, None if nothing."""
    if shutil.which("etcd") is None:
        return "etcd is not installed (Debian: apt-get install etcd-server)"
    if not _binary().exists() and shutil.which("go") is None:
        return "go is not installed, which compiles the API server"
    return None


@contextmanager
def running_crd_server(folder: Path) -> Iterator[CrdServer]:
    """Compile the server where needed (once per machine, a few minutes), start it and stop it again."""
    authority = _Authority(folder)
    client_pair = authority.issue("admin", organisation="system:masters")
    etcd_port, peer_port, port = free_ports(3)
    url = f"https://127.0.0.1:{port}"
    # The delegated lookups have no cluster to go to; the server itself stands in for it.
    kubeconfig = _kubeconfig(folder / "kubeconfig", url, authority.certificate, client_pair)
    etcd = ["etcd", "--data-dir", str(folder / "etcd"), "--unsafe-no-fsync"]
    etcd += ["--listen-client-urls", f"http://127.0.0.1:{etcd_port}"]
    etcd += ["--advertise-client-urls", f"http://127.0.0.1:{etcd_port}"]
    etcd += ["--listen-peer-urls", f"http://127.0.0.1:{peer_port}"]
    etcd += ["--initial-advertise-peer-urls", f"http://127.0.0.1:{peer_port}"]
    etcd += ["--initial-cluster", f"default=http://127.0.0.1:{peer_port}"]
    certificate, key = authority.issue("127.0.0.1")
    server = [str(_build()), "--etcd-servers", f"http://127.0.0.1:{etcd_port}"]
    server += ["--bind-address", "127.0.0.1", "--secure-port", str(port)]
    server += ["--enable-priority-and-fairness=false"]
    server += ["--tls-cert-file", str(certificate), "--tls-private-key-file", str(key)]
    server += ["--client-ca-file", str(authority.certificate), "--authentication-skip-lookup"]
    for option in ("kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"):
        server += [f"--{option}", str(kubeconfig)]
    server += [
        "--disable-admission-plugins",
        "NamespaceLifecycle,MutatingAdmissionPolicy,MutatingAdmissionWebhook,"
        "ValidatingAdmissionPolicy,ValidatingAdmissionWebhook",
    ]
    context = ssl.create_default_context(cafile=str(authority.certificate))
    context.load_cert_chain(*client_pair)
    with (
        _process(etcd, folder / "etcd.log"),
        _process(server, folder / "server.log") as process,
        httpx.Client(base_url=url, verify=context, timeout=600) as client,
    ):
        _wait_ready(client, process, folder / "server.log")
        yield CrdServer(url, client, context)


def install_definitions(server: CrdServer) -> None:
    """Make the server know the custom resources of ../shared/crds."""
    for definition in definitions().values():
        response = server.create(CRDS, definition)
        assert response.is_success, response.text
    deadline = time.monotonic() + ESTABLISHED_SECONDS
    while missing := set(definitions()) - _established(server):
        assert time.monotonic() < deadline, f"not established: {missing}"
        time.sleep(0.2)
    time.sleep(1)  # the handlers follow the status within moments


def _established(server: CrdServer) -> set[str]:
    return {
        item["metadata"]["name"]
        for item in server.client.get(CRDS).json().get("items", [])
        for condition in item.get("status", {}).get("conditions") or []
        if (condition["type"], condition["status"]) == ("Established", "True")
    }


def _binary() -> Path:
    return CACHE / MODULE.rpartition("@")[2] / "apiextensions-apiserver"


def _build() -> Path:
    binary = _binary()
    if not binary.exists():
        environment = os.environ | {"GOBIN": str(binary.parent), "GOFLAGS": ""}
        subprocess.run(["nice", "go", "install", MODULE], env=environment, check=True)
    return binary


@contextmanager
def _process(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        stop(process)


def _wait_ready(client: httpx.Client, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            # /readyz waits for built-in kinds, which this server doesn't have.
            if client.get(f"{CRDS}?limit=1").status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise AssertionError(f"the API server did not start:\n{log.read_text()[-4000:]}")


class _Authority:
    """A certificate authority for one run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
        self.certificate = folder / "ca.pem"
        built = self._builder(self._name, self._key).add_extension(x509.BasicConstraints(True, 0), True)
        self.certificate.write_bytes(_pem(built.sign(self._key, hashes.SHA256())))

    def issue(self, name: str, organisation: str | None = None) -> tuple[Path, Path]:
        """Certificate and key files for a client, or for a server at an address."""
        key = ec.generate_private_key(ec.SECP256R1())
        attributes = [x509.NameAttribute(NameOID.COMMON_NAME, name)]
        if organisation:
            attributes.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation))
        builder = self._builder(x509.Name(attributes), key)
        if organisation is None:
            names = x509.SubjectAlternativeName([x509.IPAddress(ip_address(name))])
            builder = builder.add_extension(names, False)
        certificate = self._folder / f"{name}.pem"
        certificate.write_bytes(_pem(builder.sign(self._key, hashes.SHA256())))
        private = self._folder / f"{name}.key"
        private.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return certificate, private

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=1))
        )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _kubeconfig(path: Path, url: str, authority: Path, pair: tuple[Path, Path]) -> Path:
    user = {"client-certificate": str(pair[0]), "client-key": str(pair[1])}
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "self",
        "clusters": [{"name": "self", "cluster": {"server": url, "certificate-authority": str(authority)}}],
        "users": [{"name": "admin", "user": user}],
        "contexts": [{"name": "self", "context": {"cluster": "self", "user": "admin"}}],
    }
    path.write_text(yaml.safe_dump(content))
    return path
