"""One address for the whole Kubernetes API: custom resources go on to the real API server, the rest is FAKED.

The server for custom resources has no core API. What a rollout asks of that (access reviews, who it is,
Events) is answered here with the fewest fields that the `kubernetes` client needs. Faults come in here too: a
request can be answered with an error, and a process can be killed before or after a request goes through.
"""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx

USER = "tester"
_SERVICES = "/apis/serving.kserve.io/v1beta1/"


@dataclass(frozen=True)
class Seen:
    """A request as it came in."""

    method: str
    path: str
    body: Any

    @property
    def dry_run(self) -> bool:
        return "dryRun=All" in self.path

    @property
    def writes_service(self) -> bool:
        """Whether it changes an InferenceService."""
        return self.method == "PATCH" and self.path.startswith(_SERVICES) and not self.dry_run


@dataclass
class ClusterFront:
    """The running front.

    Attributes:
        events: the Events that were created.
        only_named: the one object's name, by resource, that the access reviews allow.
        replicas: ready replicas of the Deployments that there are, by name.
        denied: rights that the access reviews deny, as `verb resource/subresource`.
        before: is asked before each request; an answer it gives is sent instead of the real one.
        after: is told of each request and its status once the real server has carried it out.
    """

    url: str
    events: list[dict[str, Any]] = field(default_factory=list)
    replicas: dict[str, int] = field(default_factory=dict)
    denied: set[str] = field(default_factory=set)
    only_named: dict[str, str] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    before: Callable[[Seen], tuple[int, Any] | None] = lambda _: None
    after: Callable[[Seen, int], None] = lambda _, __: None

    def reset(self) -> None:
        self.events.clear()
        self.replicas.clear()
        self.denied.clear()
        self.only_named.clear()
        self.seen.clear()
        self.before, self.after = lambda _: None, lambda _, __: None

    def kubeconfig(self, namespace: str) -> dict[str, Any]:
        """A configuration that leads here."""
        context = {"cluster": "front", "user": "tester", "namespace": namespace}
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "front",
            "clusters": [{"name": "front", "cluster": {"server": self.url}}],
            "users": [{"name": "tester", "user": {}}],
            "contexts": [{"name": "front", "context": context}],
        }

    def fake(self, seen: Seen) -> tuple[int, Any] | None:
        """The faked part of the API; None for what the real server knows."""
        kind = seen.path.partition("?")[0].rpartition("/")[2]
        if "/apis/apps/v1/" in seen.path and "/deployments/" in seen.path:
            name = seen.path.partition("?")[0].split("/")[7]
            if name not in self.replicas:
                return 404, {"kind": "Status", "message": "no such Deployment", "code": 404}
            return 200, {
                "kind": "Deployment",
                "metadata": {},
                "status": {"readyReplicas": self.replicas[name]},
            }
        if kind == "selfsubjectreviews":
            return 201, {"kind": "SelfSubjectReview", "status": {"userInfo": {"username": USER}}}
        if kind == "selfsubjectaccessreviews":
            asked = seen.body["spec"]["resourceAttributes"]
            kinds = filter(None, (asked["resource"], asked.get("subresource")))
            allowed = f"{asked['verb']} {'/'.join(kinds)}" not in self.denied
            # As with the Role in manifests/rollout, which gives some rights on named objects only.
            expected = self.only_named.get(asked["resource"])
            allowed = allowed and expected in (None, asked.get("name"))
            return 201, {**seen.body, "status": {"allowed": allowed}}
        if kind == "events" and seen.method == "POST":
            self.events.append(seen.body)
            return 201, seen.body
        if kind == "events":
            if "list events" in self.denied:
                return 403, {"kind": "Status", "message": "events is forbidden", "code": 403}
            selector = parse_qs(urlsplit(seen.path).query)["fieldSelector"][0]
            uid = selector.removeprefix("involvedObject.uid=")
            found = [event for event in self.events if event["involvedObject"]["uid"] == uid]
            return 200, {"kind": "EventList", "apiVersion": "v1", "items": found}
        return None


@contextmanager
def running_front(url: str, tls: ssl.SSLContext) -> Iterator[ClusterFront]:
    """Serve in front of the API server at `url` until the end."""
    with httpx.Client(base_url=url, verify=tls, timeout=600) as real:

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                raw = self.rfile.read(int(self.headers.get("content-length") or 0))
                seen = Seen(self.command, self.path, json.loads(raw) if raw else None)
                front.seen.append(seen)
                answer = front.before(seen) or front.fake(seen)
                if answer is None:
                    kept = ("content-type", "accept")
                    headers = {k: v for k, v in self.headers.items() if k.lower() in kept}
                    found = real.request(self.command, self.path, content=raw, headers=headers)
                    answer = found.status_code, found.json()
                front.after(seen, answer[0])
                self._send(*answer)

            do_POST = do_PATCH = do_GET  # noqa: N815

            def _send(self, status: int, body: Any) -> None:
                content = body if isinstance(body, bytes) else json.dumps(body).encode()
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
                except (BrokenPipeError, ConnectionResetError):
                    return  # a killed client

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        front = ClusterFront(f"http://127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield front
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
