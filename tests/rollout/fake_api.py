"""A FAKE Kubernetes API with one InferenceService, whose faults a test decides request by request.

It speaks real HTTP, keeps resourceVersions as the real one does, and lets the stand-in for KServe's
controller reconcile once before each request, so that the same requests always see the same. The real API
server for custom resources, which other tests use, can't lose an answer at a chosen moment.
"""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from kserve_stand_in import MODE, KServeStandIn
from kubernetes import client
from patching import applied

NAMESPACE, NAME = "models", "chat"
_OBJECT = f"/apis/serving.kserve.io/v1beta1/namespaces/{NAMESPACE}/inferenceservices/{NAME}"

Object = dict[str, Any]


class Fault(Enum):
    """What happens to a request."""

    LOST_ANSWER = "it is carried out, and the connection breaks"
    LOST_REQUEST = "the connection breaks before it is carried out"
    ERROR = "the server says 503 and does nothing"


@dataclass
class Seen:
    """A request that changes the InferenceService's spec or the rollout's record, and was carried out."""

    path: str
    body: Object


@dataclass
class FakeApi:
    """The API and the service in it.

    Attributes:
        before: is asked of each request by its number; may do anything, such as a second command, first.
        writes: what was carried out.
        down: whether the controller is.
        replicas: ready replicas of Deployments, by name.
        is_write, is_dry_run: of the request that `before` is asked of.
        interrupted: for tests that interrupt once.
    """

    mode: str
    before: Callable[[int], Fault | None] = lambda _: None
    requests: int = 0
    writes: list[Seen] = field(default_factory=list)
    down: bool = False
    replicas: dict[str, int] = field(default_factory=dict)
    is_write: bool = False
    is_dry_run: bool = False
    interrupted: bool = False
    url: str = ""
    calm_url: str = ""

    def __post_init__(self) -> None:
        self._lock = threading.RLock()
        model = {"modelFormat": {"name": "gguf"}, "storageUri": "hf://owner/old", "name": ""}
        self.service: Object = {
            "apiVersion": "serving.kserve.io/v1beta1",
            "kind": "InferenceService",
            "metadata": {
                "name": NAME,
                "namespace": NAMESPACE,
                "uid": "1",
                "resourceVersion": "1",
                "generation": 1,
                "annotations": {MODE: self.mode},
            },
            "spec": {"predictor": {"minReplicas": 1, "model": model}},
            "status": {},
        }
        self.kserve = KServeStandIn(_Direct(self))  # type: ignore[arg-type]
        for _ in range(5):
            self.kserve.reconcile(copy.deepcopy(self.service))
            self.kserve._round += 1

    @property
    def spec(self) -> Object:
        with self._lock:
            return copy.deepcopy(dict(self.service["spec"]))

    @property
    def traffic(self) -> dict[str, int]:
        """What each workload gets."""
        return dict(self.kserve.world(NAMESPACE, NAME).traffic)

    def reconcile(self) -> None:
        """Let the controller work, unless it is down."""
        with self._lock:
            if not self.down:
                self.kserve._round += 1
                self.kserve.reconcile(copy.deepcopy(self.service))

    def edit(self, change: Object) -> None:
        """Change the spec as somebody else would."""
        with self._lock:
            self._merge({"spec": change}, status=False)

    def client(self, *, calm: bool = False) -> client.ApiClient:
        """A client of it; a calm one has no faults."""
        configuration = client.Configuration()
        configuration.host = self.calm_url if calm else self.url
        configuration.retries = 0
        return client.ApiClient(configuration)

    def answer(self, method: str, target: str, body: Object) -> tuple[int, Object]:
        """Carry a request out."""
        with self._lock:
            self.reconcile()
            url = urlsplit(target)
            if url.path in (_OBJECT, f"{_OBJECT}/status"):
                if method == "GET":
                    return 200, copy.deepcopy(self.service)
                return self._patch(url.path, body, dry="dryRun" in parse_qs(url.query))
        kind = url.path.rpartition("/")[2]
        if kind == "selfsubjectreviews":
            return 201, {"kind": "SelfSubjectReview", "status": {"userInfo": {"username": "tester"}}}
        if kind == "selfsubjectaccessreviews":
            return 201, {**body, "status": {"allowed": True}}
        if kind == "events" or "/httproutes/" in url.path:
            return 201 if method == "POST" else 200, body
        name = url.path.removesuffix("/status").rpartition("/")[2]
        if "/deployments/" in url.path and name in self.replicas:
            return 200, {"kind": "Deployment", "status": {"readyReplicas": self.replicas[name]}}
        return 404, {"kind": "Status", "message": "no such path", "code": 404}

    def _patch(self, path: str, body: Object, *, dry: bool) -> tuple[int, Object]:
        version = (body.get("metadata") or {}).get("resourceVersion")
        if version not in (None, self.service["metadata"]["resourceVersion"]):
            return 409, {"kind": "Status", "message": "the object has been modified", "code": 409}
        kept = copy.deepcopy(self.service)
        self._merge(body, status=path.endswith("/status"))
        found = copy.deepcopy(self.service)
        if dry:
            self.service = kept
        else:
            self.writes.append(Seen(path, body))
        return 200, found

    def _merge(self, body: Object, *, status: bool) -> None:
        part = "status" if status else "spec"
        changed = applied(self.service.get(part) or {}, body.get(part) or {})
        if changed == self.service.get(part):
            return
        metadata = self.service["metadata"]
        metadata["resourceVersion"] = str(int(metadata["resourceVersion"]) + 1)
        metadata["generation"] += part == "spec"
        self.service[part] = changed


class _Direct:
    """The stand-in's way to the API, without HTTP."""

    def __init__(self, api: FakeApi) -> None:
        self._api = api

    def patch(self, path: str, *, content: str, headers: Any) -> None:
        self._api._merge(json.loads(content), status=True)


@contextmanager
def serving(api: FakeApi) -> Iterator[FakeApi]:
    """Serve it at two addresses, of which one has the faults."""
    servers = [_server(api, faults=True), _server(api, faults=False)]
    api.url, api.calm_url = (f"http://127.0.0.1:{server.server_port}" for server in servers)
    for server in servers:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield api
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()


def _server(api: FakeApi, *, faults: bool) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            raw = self.rfile.read(int(self.headers.get("content-length") or 0))
            fault = None
            if faults:
                api.requests += 1
                api.is_dry_run = "dryRun=All" in self.path
                api.is_write = self.command == "PATCH" and not api.is_dry_run
                fault = api.before(api.requests)
            if fault is Fault.LOST_REQUEST:
                return self._break()
            if fault is Fault.ERROR:
                return self._send(503, {"message": "not now"})
            status, body = api.answer(self.command, self.path, json.loads(raw) if raw else {})
            if fault is Fault.LOST_ANSWER:
                return self._break()
            return self._send(status, body)

        do_POST = do_PATCH = do_GET  # noqa: N815

        def _break(self) -> None:
            self.close_connection = True
            self.connection.close()

        def _send(self, status: int, body: Object) -> None:
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

        def handle(self) -> None:
            try:
                super().handle()
            except (OSError, ValueError):
                return  # the client, or this end, is gone

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    return server
