"""Pods in the Kubernetes core API, as far as judges use it; a fake, since no core API runs here.

It lists pods by label and passes requests to a pod's `/proxy/` on to an address, as the API server does.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
from kubernetes import client

NAMESPACE = "models"


@dataclass
class PodApi:
    """Addresses by label selector and pod name; may change while it serves."""

    pods: dict[str, dict[str, str]] = field(default_factory=dict)
    not_ready: set[str] = field(default_factory=set)
    restarts: dict[str, int] = field(default_factory=dict)
    port: int = 0
    namespace: str = NAMESPACE
    # One for all: making one loads the certificates each time.
    _http: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=120))

    def client(self) -> client.ApiClient:
        """A client of it, with a token."""
        configuration = client.Configuration()
        configuration.host = f"http://127.0.0.1:{self.port}"
        configuration.api_key = {"BearerToken": "Bearer token-of-the-tests"}
        return client.ApiClient(configuration)

    def answer(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> tuple[int, bytes]:
        """Status and body; 404 for what isn't known."""
        url = urlsplit(target)
        parts = url.path.strip("/").split("/")
        if parts[:5] != ["api", "v1", "namespaces", self.namespace, "pods"]:
            return 404, b'{"message": "no such path"}'
        if len(parts) == 5:
            selector = parse_qs(url.query).get("labelSelector", [""])[0]
            return 200, json.dumps({"kind": "PodList", "items": self._items(selector)}).encode()
        name, _, port = parts[5].partition(":")
        addresses = {pod: address for pods in self.pods.values() for pod, address in pods.items()}
        if name not in addresses or parts[6:7] != ["proxy"] or port != "8080":
            return 404, b'{"message": "no such pod"}'
        content = {"content-type": headers.get("content-type", "application/json")}
        try:
            answer = self._http.request(
                method,
                f"{addresses[name]}/{'/'.join(parts[7:])}",
                content=body,
                headers=content,
            )
        except httpx.HTTPError as error:
            return 503, json.dumps({"message": f"error trying to reach service: {error}"}).encode()
        return answer.status_code, answer.content

    def _items(self, selector: str) -> list[dict[str, Any]]:
        return [
            {
                "metadata": {"name": name, "namespace": NAMESPACE},
                "status": {
                    "conditions": [{"type": "Ready", "status": str(name not in self.not_ready)}],
                    "containerStatuses": [{"restartCount": self.restarts.get(name, 0)}],
                },
            }
            for name in self.pods.get(selector, {})
        ]


@contextmanager
def serving_pods(pods: PodApi) -> Iterator[PodApi]:
    """Serve it on a free port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _handle(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            headers = {name.lower(): value for name, value in self.headers.items()}
            if headers.get("authorization") != "Bearer token-of-the-tests":
                status, body = 401, b'{"message": "Unauthorized"}'
                self.rfile.read(length)
            else:
                status, body = pods.answer(self.command, self.path, headers, self.rfile.read(length))
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = _handle  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    pods.port = server.server_port
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield pods
    finally:
        server.shutdown()
        server.server_close()
