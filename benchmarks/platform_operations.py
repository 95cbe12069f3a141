"""What clients notice of a model switch and of a crash, on each platform."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.measure import Metric
from benchmarks.platform_servers import KSERVE, RAY, kserve_server
from benchmarks.ray_cluster import RayCluster, ray_cluster
from benchmarks.results import Measurement
from benchmarks.servers import Setup, running
from predictor.client import prompts
from predictor.client.load import LoadGenerator, completion
from predictor.client.records import RequestRecord
from scripts.free_ports import free_port

SWITCH, CRASH = "platforms-switch", "platforms-crash"
SWITCH_METRICS = (
    Metric("requests", "requests from before the switch until after it", {}),
    Metric("failed", "of these failed", {}),
    Metric("seconds", "from the order to the new model alone, s", {}),
    Metric("longest_seconds", "longest request, s", {}),
)
CRASH_METRICS = (
    Metric("running", "requests running when the process was killed", {}),
    Metric("lost", "of these lost", {}),
    Metric("refused", "requests refused until it was back", {}),
    Metric("recovery_seconds", "from the kill to the next good answer, s", {}),
)
_CLIENTS, _SETUP = 3, Setup(sequences=4, context_tokens=2048)
_CALL = completion("benchmark", prompts.text(20, "operations"), 24)
_PAUSE_SECONDS = 0.25  # of a client after a failure


@dataclass
class Traffic:
    """Clients that ask without a pause; `url` may change, as where a Kubernetes service points."""

    url: str
    records: list[RequestRecord] = field(default_factory=list)
    running: int = 0

    @asynccontextmanager
    async def flowing(self) -> AsyncIterator[Traffic]:
        """From the third answer on, until every client has had another one after the block."""
        stop = asyncio.Event()
        tasks = [asyncio.create_task(self._client(stop)) for _ in range(_CLIENTS)]
        await self.answers(3)
        yield self
        await self.answers(_CLIENTS)
        stop.set()
        await asyncio.gather(*tasks)

    async def answers(self, count: int) -> None:
        """Wait for so many more good answers."""
        goal = self._good() + count
        deadline = time.perf_counter() + 90
        while self._good() < goal and time.perf_counter() < deadline:
            await asyncio.sleep(0.005)

    def _good(self) -> int:
        return sum(record.error is None for record in self.records)

    async def _client(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            async with LoadGenerator(self.url) as generator:
                self.running += 1
                record = (await generator.stream(_CALL)).record()
                self.running -= 1
            self.records.append(record)
            if record.error:
                await asyncio.sleep(_PAUSE_SECONDS)


async def measure(model: Path, threads: int) -> list[Measurement]:
    """A switch and a crash on each platform, with one replica."""
    with tempfile.TemporaryDirectory() as folder:
        second = Path(folder) / "second.gguf"
        shutil.copyfile(model, second)
        measured = [await _kserve_switch(model, second, threads), await _kserve_crash(model, threads)]
        with ray_cluster(threads, Path(folder) / "ray.log") as cluster:
            return [*measured, *await _on_ray(_Application(cluster, free_port(), threads), model, second)]


async def _kserve_switch(model: Path, second: Path, threads: int) -> Measurement:
    """A rolling update as a Deployment makes it; the clients play the service that turns to the new pod."""
    async with AsyncExitStack() as pods:
        old = await pods.enter_async_context(running(kserve_server(model, threads), _SETUP))
        traffic = Traffic(old.base_url)
        async with traffic.flowing():
            started = time.perf_counter()
            new = await pods.enter_async_context(running(kserve_server(second, threads), _SETUP))
            traffic.url = new.base_url
            await asyncio.to_thread(old.stop)
            seconds = time.perf_counter() - started
        return _switched(KSERVE, traffic, seconds)


async def _kserve_crash(model: Path, threads: int) -> Measurement:
    """A killed server is started again at once, as a kubelet does the first time."""
    async with AsyncExitStack() as pods:
        first = await pods.enter_async_context(running(kserve_server(model, threads), _SETUP))
        traffic = Traffic(first.base_url)
        async with traffic.flowing():
            killed, running_then = time.perf_counter(), traffic.running
            first.process.kill()
            again = await pods.enter_async_context(running(kserve_server(model, threads), _SETUP))
            traffic.url = again.base_url
        return _crashed(KSERVE, traffic, killed, running_then)


async def _on_ray(application: _Application, model: Path, second: Path) -> list[Measurement]:
    await asyncio.to_thread(application.deploy, model, model)
    traffic = Traffic(application.url)
    async with traffic.flowing():
        started = time.perf_counter()
        await asyncio.to_thread(application.deploy, model, second)
        seconds = time.perf_counter() - started
    switch = _switched(RAY, traffic, seconds)
    traffic = Traffic(application.url)
    async with traffic.flowing():
        (replica,) = application.cluster.replicas("engine")
        killed, running_then = time.perf_counter(), traffic.running
        replica.kill()
    return [switch, _crashed(RAY, traffic, killed, running_then)]


@dataclass(frozen=True)
class _Application:
    cluster: RayCluster
    port: int
    threads: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def deploy(self, first: Path, model: Path) -> None:
        """Deploy it with its first model, or let another take over."""
        settings = {
            "model": str(first),
            "model_name": "benchmark",
            "threads": self.threads,
            "max_sequences": _SETUP.sequences,
            "context_tokens": _SETUP.context_tokens,
        }
        application = {
            "name": "llamacpp",
            "route_prefix": "/",
            "import_path": "runtimes.ray_serve:app",
            "args": settings,
            "deployments": [{"name": "engine", "user_config": {"model": str(model)}}],
        }
        options = {"host": "127.0.0.1", "port": self.port}
        self.cluster.deploy(
            {"proxy_location": "HeadOnly", "http_options": options, "applications": [application]}
        )


def _switched(server: str, traffic: Traffic, seconds: float) -> Measurement:
    errors = tuple(record.error for record in traffic.records if record.error)
    metrics = {
        "requests": float(len(traffic.records)),
        "failed": float(len(errors)),
        "seconds": seconds,
        "longest_seconds": max(record.duration for record in traffic.records),
    }
    return Measurement(SWITCH, f"{_CLIENTS} clients", server, 0, metrics, errors=errors)


def _crashed(server: str, traffic: Traffic, killed: float, running_then: int) -> Measurement:
    bad = [record for record in traffic.records if record.error]
    good = [r.started + r.duration for r in traffic.records if not r.error and r.started > killed]
    lost = sum(record.started <= killed for record in bad)
    metrics = {
        "running": float(running_then),
        "lost": float(lost),
        "refused": float(len(bad) - lost),
        "recovery_seconds": min(good) - killed,
    }
    return Measurement(CRASH, f"{_CLIENTS} clients", server, 0, metrics)
