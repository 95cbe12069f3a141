"""The worst of every field, to every route, while somebody else's stream runs."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from calls import PATIENCE, ask, connect, post_bytes, resident_mib, wait_until_idle
from canaries import Canaries
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from server_process import Server, running_server
from worst_values import CONTROL, KINDS

pytestmark = [pytest.mark.faults, pytest.mark.timeout(3 * PATIENCE)]

EXAMPLES = 300
SIZE = 8 * 2**20 - 4096
# Of the event loop's CPU time in one gap. It doesn't decode, and a busy machine makes no difference to it.
MOST_SECONDS = 0.25
MOST_MIB = 1024  # beside what the server takes at rest
GRACE = 5

SHORT = {"max_tokens": 2}
CHAT = {"model": "smol", "messages": [{"role": "user", "content": "Hi"}], **SHORT}
TENSOR = {"name": "prompt", "shape": [1], "datatype": "BYTES", "data": ["Hi"]}
BASES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": CHAT,
    "/openai/v1/chat/completions": CHAT,
    "/v1/completions": {"model": "smol", "prompt": "Hi", **SHORT},
    "/openai/v1/completions": {"model": "smol", "prompt": "Hi", **SHORT},
    "/v1/embeddings": {"model": "smol", "input": "Hi"},
    "/openai/v1/embeddings": {"model": "smol", "input": "Hi"},
    "/v1/rerank": {"model": "smol", "query": "Hi", "documents": ["Hi"]},
    "/openai/v1/rerank": {"model": "smol", "query": "Hi", "documents": ["Hi"]},
    "/v1/models/{model}:predict": {"instances": [{"prompt": "Hi", **SHORT}]},
    "/v2/models/{model}/infer": {"inputs": [TENSOR], "parameters": SHORT},
    "/v2/models/{model}/generate": {"text_input": "Hi", "parameters": SHORT},
    "/v2/models/{model}/generate_stream": {"text_input": "Hi", "parameters": SHORT},
    "/predict": {"prompt": "Hi", **SHORT},
}
"""A request of every route that takes one; what else a route takes is in the server's own document."""


@dataclass
class Gaps:
    """How long others had to wait.

    Attributes:
        cpu: CPU seconds that the server's event loop spent in the worst gap.
        wall: seconds of the worst gap.
        worst: what was being sent then.
        count: gaps.
    """

    cpu: float = 0.0
    wall: float = 0.0
    worst: str = ""
    count: int = 0

    def __str__(self) -> str:
        return f"{self.cpu * 1000:.0f} ms ({self.worst})"

    def add(self, cpu: float, wall: float, sent: str) -> None:
        self.count += 1
        self.wall = max(self.wall, wall)
        if cpu > self.cpu:
            self.cpu, self.worst = cpu, sent


@dataclass
class Watch:
    """A stream and a probe that go on all the time, and what they saw."""

    server: Server
    sending: str = ""
    stream: Gaps = field(default_factory=Gaps)
    probe: Gaps = field(default_factory=Gaps)
    most_mib: float = 0.0
    failures: list[str] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)

    def read_streams(self) -> None:
        body = {"model": "smol", "prompt": "The sea", "max_tokens": 200, "ignore_eos": True, "stream": True}
        with httpx.Client(timeout=PATIENCE) as client:
            while not self.stopped.is_set():
                with client.stream("POST", f"{self.server.http_url}/v1/completions", json=body) as answer:
                    self._follow(answer.iter_lines(), self.stream)
                if answer.status_code != 200:
                    self.failures.append(f"a stream got {answer.status_code}")

    def probe_health(self) -> None:
        with httpx.Client(timeout=PATIENCE) as client:

            def probes() -> Iterator[int]:
                while not self.stopped.is_set():
                    yield client.get(f"{self.server.http_url}/v2/health/live").status_code
                    self.most_mib = max(self.most_mib, resident_mib(self.server))

            self._follow(probes(), self.probe)

    def _follow(self, events: Iterator[Any], gaps: Gaps) -> None:
        last: tuple[float, float, str] | None = None
        for _ in events:
            now = (loop_seconds(self.server), time.monotonic(), self.sending)
            if last is not None:
                # What held the loop up may have been answered before whoever waited was.
                sent = now[2] if now[2] == last[2] else f"{last[2]}, or {now[2]}"
                gaps.add(now[0] - last[0], now[1] - last[1], sent)
            last = now


@contextmanager
def watching(server: Server) -> Iterator[Watch]:
    watch = Watch(server)
    threads = [threading.Thread(target=run) for run in (watch.read_streams, watch.probe_health)]
    for thread in threads:
        thread.start()
    try:
        yield watch
    finally:
        watch.stopped.set()
        for thread in threads:
            thread.join()


def loop_seconds(server: Server) -> float:
    """CPU seconds of the server's event loop, which runs on the main thread, so far."""
    pid = server.process.pid
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0]) / 1e9


def routes_and_fields(server: Server) -> list[tuple[str, str]]:
    """Every field of every route's body, from the server's document and from `BASES`."""
    document = httpx.get(f"{server.http_url}/openapi.json", timeout=PATIENCE).json()
    parts = document["components"]["schemas"]
    found: set[tuple[str, str]] = set()
    for path, operations in document["paths"].items():
        route = path.replace("{model_name}", "{model}")
        content = operations.get("post", {}).get("requestBody", {}).get("content", {})
        schema = content.get("application/json", {}).get("schema", {})
        for option in (schema, *schema.get("anyOf", ())):
            properties = parts.get(option.get("$ref", "").rpartition("/")[2], {}).get("properties", {})
            if route in BASES:
                found.update((route, name) for name in properties)
    for route, base in BASES.items():
        found.update((route, name) for name in (*base, "anything"))
    return sorted(found)


def body_of(route: str, name: str, kind: str, size: int, several: bool) -> bytes:
    """A request with the worst in one field, and with `n` where that multiplies it."""
    others = {key: value for key, value in BASES[route].items() if key != name}
    if several and "completions" in route and name != "n":
        others["n"] = 128
    rest = json.dumps(others)[1:-1]
    return f'{{"{name}":'.encode() + KINDS[kind](size) + (f",{rest}" if rest else "").encode() + b"}"


def test_the_worst_of_every_field(model_path: Path, tmp_path: Path, record: Any) -> None:
    counts: Counter[str] = Counter()
    options = ("--grace-period-seconds", str(GRACE))
    with running_server(model_path, tmp_path / "log", *options, context_tokens=1024) as server:
        ask(server, Canaries(), tokens=4)
        before = resident_mib(server)
        with watching(server) as watch:
            send_the_worst(server, watch, counts)
        wait_until_idle(server)
        ask(server, Canaries(), tokens=4)
        assert "Traceback" not in server.log.read_text()
        seconds = stop_under_attack(server)
    assert not watch.failures
    assert watch.probe.count > 100
    assert watch.stream.count > 100
    total, lost = sum(counts.values()), counts["5xx"]
    told = [
        "answers: " + ", ".join(f"{count} {status}" for status, count in sorted(counts.items())),
        f"longest gaps beside them, in CPU time of the event loop: of a stream {watch.stream}, of health "
        f"{watch.probe}",
        f"memory {before:.0f}, at most {watch.most_mib:.0f} MiB",
        f"ended {seconds:.1f} s after a SIGTERM among such requests, of a grace period of {GRACE} s",
    ]
    record("8 MiB of the worst of every field", total, total - lost, lost, "; ".join(told))
    assert not counts["5xx"]
    assert watch.probe.cpu < MOST_SECONDS, watch.probe.worst
    assert watch.stream.cpu < MOST_SECONDS, watch.stream.worst
    assert watch.most_mib < before + MOST_MIB


def send_the_worst(server: Server, watch: Watch, counts: Counter[str]) -> None:
    places = st.sampled_from(routes_and_fields(server))
    sizes = st.sampled_from([SIZE, SIZE, SIZE // 8, 300_000])

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(places, st.sampled_from(sorted(KINDS)), sizes, st.booleans())
    def send(place: tuple[str, str], kind: str, size: int, several: bool) -> None:
        route, name = place
        body = body_of(route, name, kind, size, several)
        watch.sending = f"{name} of {route.replace('{model}', 'M')}: {kind}, {len(body) / 2**20:.1f} MiB"
        answer = httpx.post(
            server.http_url + route.replace("{model}", "smol"),
            content=body,
            headers={"Content-Type": "application/json"},
            timeout=PATIENCE,
        )
        status = answer.status_code
        counts["5xx" if status >= 500 and status != 503 else str(status)] += 1
        assert status < 500 or status == 503, f"{watch.sending}: {answer.text[:300]}"

    send()
    watch.sending = "nothing"


def stop_under_attack(server: Server) -> float:
    """Seconds from a SIGTERM, which comes among long texts and half requests, to the server's end."""
    text = CONTROL * 40_000
    attacks = [
        post_bytes("/v1/completions", {"model": "smol", "prompt": text}),
        post_bytes("/v1/chat/completions", {**CHAT, "messages": [{"role": "user", "content": text}] * 4}),
        post_bytes("/v1/completions", {"model": "smol", "prompt": "Hi" * 10**6})[:-100],
        b"POST /v1/completions HTTP/1.1\r\na: " + b"x" * 1000,
    ]
    connections = [connect(server) for _ in range(4) for _ in attacks]
    for connection, attack in zip(connections, attacks * 4, strict=True):
        connection.sendall(attack)
    time.sleep(0.2)
    started = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(timeout=PATIENCE) == 0
    took = time.monotonic() - started
    for connection in connections:
        connection.close()
    return took
