"""Predictors' `/metrics` as a test wants them, over real HTTP; a stand-in for pods under load.

What is counted goes through the predictor's own `EngineMetrics`, so names, labels and buckets are true.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Thread
from types import SimpleNamespace
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import CollectorRegistry, Gauge, make_wsgi_app

from predictor.engine.config import EngineStats
from predictor.telemetry.finished import FinishedRequest
from predictor.telemetry.metrics import EngineMetrics


@dataclass
class Pod:
    """A pod's counters, and what serves them."""

    name: str
    waiting: int = 0
    running: int = 0
    unanswered: tuple[float, ...] = ()
    url: str = ""
    restarts: int = 0
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Begin to count at zero."""
        self.registry = CollectorRegistry()
        self.metrics = EngineMetrics("smol", self.registry)
        self.metrics.read(self._stats)
        # As the client library's own collector tells it, which knows only this process.
        started = Gauge("process_start_time_seconds", "When the process began.", registry=self.registry)
        self.restarts += 1
        started.set(1e9 + 10 * self.restarts)

    def _stats(self) -> EngineStats:
        return EngineStats(running=self.running, waiting=self.waiting, unanswered=self.unanswered)

    def embed(self, count: int, *, total: float = 0.05) -> None:
        """Count answers without tokens."""
        for _ in range(count):
            self.metrics.finished(FinishedRequest("", "stop", 3, 0, 0, 0, 0.0, None, None, None, total))

    def abandon(self, count: int, *, after: float = 30.0, first_token: float | None = None) -> None:
        """Count clients that left, mostly before the first token."""
        for _ in range(count):
            if first_token is not None:
                sequence: Any = SimpleNamespace(arrived=0.0, request=SimpleNamespace(prompt=(1, 2, 3)))
                self.metrics.token_sampled(sequence, first_token, None)
            self.metrics.finished(
                FinishedRequest("", "abort", 3, 0, 0, 0, 0.0, None, None, first_token, after)
            )

    def serve(
        self, count: int, *, first_token: float = 0.2, gap: float = 0.01, tokens: int = 10, queue: float = 0.0
    ) -> None:
        """Count finished requests of so many tokens."""
        for _ in range(count):
            sequence: Any = SimpleNamespace(arrived=0.0, request=SimpleNamespace(prompt=(1, 2, 3)))
            self.metrics.token_sampled(sequence, first_token, None)
            for _ in range(tokens - 1):
                self.metrics.token_sampled(sequence, 0.0, gap)
            total = first_token + tokens * gap
            finished = FinishedRequest(
                "", "stop", 3, tokens, 0, 0, queue, first_token - queue, tokens * gap, first_token, total
            )
            self.metrics.finished(finished)

    def fail(self, count: int) -> None:
        """Count requests that ended in an error of the engine."""
        for _ in range(count):
            self.metrics.finished(FinishedRequest("", "error", 3, 0, 0, 0, 0.0, None, None, None, 0.1))

    def refuse(self, count: int, reason: str = "queue_full") -> None:
        """Count refused requests."""
        self.metrics.refused(count, reason)


class _Quiet(WSGIRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def serving(*pods: Pod) -> Iterator[None]:
    """Serve each pod's metrics at its `url`."""
    servers = []
    for pod in pods:

        def app(environ: Any, start_response: Any, pod: Pod = pod) -> Any:
            return make_wsgi_app(pod.registry)(environ, start_response)

        server = make_server("127.0.0.1", 0, app, handler_class=_Quiet)
        pod.url = f"http://127.0.0.1:{server.server_port}"
        Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
    try:
        yield
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()
