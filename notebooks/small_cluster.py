"""STANDS IN for a Kubernetes cluster with KServe, on this machine, for one InferenceService.

Real: the server processes, their metrics, the requests, and everything in `rollout`, which talks to this over
HTTP as to an API server. Not real: the API server, which here keeps objects in memory and checks nothing; the
controller of KServe, for which the one of tests/rollout stands in; and the pods, which are processes here.
"""

from __future__ import annotations

import copy
import json
import random
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import tour

sys.path.insert(0, str(tour.ROOT / "tests" / "rollout"))
from kserve_stand_in import MODE, KServeStandIn, Workload

NAMESPACE, NAME = "models", "chat"
NO_ANSWER = 0
"""The status of a request that failed without one."""
_SERVICES = "/apis/serving.kserve.io/v1beta1/"
_REVISION = "serving.knative.dev/revision="


class LocalKServe(KServeStandIn):
    """Runs a server process for every pod template, and calls a revision ready when its server is.

    Args:
        client: of the API server.
        options: what a server of each model reference is started with.
    """

    def __init__(self, client: httpx.Client, options: Mapping[str, Sequence[str]]) -> None:
        super().__init__(client, pause_s=0.1)
        self.servers: dict[str, tour.Server] = {}
        self._options = options

    def _loaded(self, workload: Workload) -> bool:
        server = self.servers.get(workload.template)
        if server is None:
            reference = json.loads(workload.template)[0]["model"]["storageUri"]
            self.servers[workload.template] = tour.serve(*self._options[reference])
            return False
        try:
            return httpx.get(f"{server.url}/v2/models/{tour.MODEL_NAME}/ready").status_code == 200
        except httpx.TransportError:
            return False


@dataclass
class Request:
    """One user's request: when it was sent, who answered it and how."""

    at: float
    revision: str
    status: int
    seconds: float


@dataclass
class SmallCluster:
    """The cluster, its one service, and its users.

    Attributes:
        options: what a server of each model reference is started with.
        clients: users at once; each sends its next request when its last one is answered.
        requests: what they have sent so far.
    """

    options: Mapping[str, Sequence[str]]
    clients: int
    requests: list[Request] = field(default_factory=list)

    def start(self, reference: str) -> SmallCluster:
        """Serve a model, and wait until users can come."""
        self._store: dict[str, Any] = {}
        self._version = 0
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self.began = time.perf_counter()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self.kserve = LocalKServe(httpx.Client(base_url=self.url), self.options)
        self._create(reference)
        for work in (self._http.serve_forever, self.kserve.run):
            threading.Thread(target=work, daemon=True).start()
        while not self.traffic():
            time.sleep(0.1)
        for number in range(self.clients):
            threading.Thread(target=self._use, args=(number,), daemon=True).start()
        return self

    def stop(self) -> None:
        """End users, controller and API; `tour.stop_all` ends the servers."""
        self._stopped.set()
        self.kserve.stopped = True
        self._http.shutdown()

    def traffic(self) -> dict[str, int]:
        """Percent of the requests by revision."""
        return {name: share for name, share in self.kserve.world(NAMESPACE, NAME).traffic.items() if share}

    def _use(self, number: int) -> None:
        randomness = random.Random(number)
        with httpx.Client(timeout=300) as client:
            while not self._stopped.is_set():
                shares = self.traffic()
                (revision,) = randomness.choices([*shares], [*shares.values()])
                body = {"model": tour.MODEL_NAME, "prompt": f"{number}:", "max_tokens": 4, "ignore_eos": True}
                began = time.perf_counter()
                try:
                    status = client.post(f"{self.server(revision).url}/v1/completions", json=body).status_code
                except httpx.TransportError:  # A user whose request failed asks again.
                    status = NO_ANSWER
                seconds = time.perf_counter() - began
                self.requests.append(Request(began - self.began, revision, status, seconds))
                time.sleep(0.02)

    def server(self, revision: str) -> tour.Server:
        """The process that stands for a revision's pod."""
        workload = self.kserve.world(NAMESPACE, NAME).workloads[revision]
        return self.kserve.servers[workload.template]

    def _create(self, reference: str) -> None:
        model = {"modelFormat": {"name": "gguf"}, "storageUri": reference}
        metadata = {"name": NAME, "namespace": NAMESPACE, "uid": "1", "annotations": {MODE: "Knative"}}
        self._store = {
            "metadata": {**metadata, "resourceVersion": "0"},
            "spec": {"predictor": {"model": model}},
            "status": {},
        }

    def answer(self, method: str, target: str, body: Any) -> tuple[int, Any]:
        """Status and JSON, or text, of a request to the API."""
        url = urlsplit(target)
        kind = url.path.rpartition("/")[2]
        if kind in ("selfsubjectreviews", "selfsubjectaccessreviews", "events"):
            status = {"userInfo": {"username": "you"}, "allowed": True}
            return 201, {**body, "status": status}
        if url.path.startswith(f"/api/v1/namespaces/{NAMESPACE}/pods"):
            return self._pods(url.path, parse_qs(url.query))
        if url.path.startswith(_SERVICES):
            with self._lock:
                return self._service(method, url.path, body, dry_run="dryRun" in url.query)
        return 404, {"message": f"no {url.path} here"}

    def _service(self, method: str, path: str, body: Any, *, dry_run: bool) -> tuple[int, Any]:
        if method == "GET":
            one = path.endswith(f"/{NAME}")
            return 200, copy.deepcopy(self._store) if one else {"items": [copy.deepcopy(self._store)]}
        wanted = body.get("metadata", {}).pop("resourceVersion", None)
        if wanted not in (None, self._store["metadata"]["resourceVersion"]):
            return 409, {"message": "the object has been modified"}
        changed = _merged(self._store, body)
        if not dry_run and changed != self._store:
            self._version += 1
            changed["metadata"]["resourceVersion"] = str(self._version)
            self._store = changed
        return 200, copy.deepcopy(changed)

    def _pods(self, path: str, query: Mapping[str, list[str]]) -> tuple[int, Any]:
        if selector := query.get("labelSelector"):
            ready = {"conditions": [{"type": "Ready", "status": "True"}]}
            name = selector[0].removeprefix(_REVISION)
            return 200, {"items": [{"metadata": {"name": name, "namespace": NAMESPACE}, "status": ready}]}
        pod, _, rest = path.partition("/pods/")[2].partition("/proxy/")
        return 200, httpx.get(f"{self.server(pod.partition(':')[0]).url}/{rest}").text


def _merged(old: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not isinstance(patch, dict):
        return patch
    result = dict(old) if isinstance(old, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _merged(result.get(key), value)
    return result


def _handler(cluster: SmallCluster) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            raw = self.rfile.read(int(self.headers.get("content-length") or 0))
            status, body = cluster.answer(self.command, self.path, json.loads(raw) if raw else None)
            content = (body if isinstance(body, str) else json.dumps(body)).encode()
            self.send_response(status)
            self.send_header("content-type", "text/plain" if isinstance(body, str) else "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_PATCH = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    return Handler
