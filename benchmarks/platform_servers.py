"""The same predictor on both platforms, and the engine without any."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from benchmarks.servers import OurServer, Setup
from predictor.client.records import LoadResult, RequestRecord
from predictor.engine.engine import Engine
from predictor.engine.request import Request, SamplingParams
from predictor.serving.startup import plan_startup
from predictor.settings import Settings

KSERVE = "KServe"
RAY = "Ray Serve"
BARE = "bare engine"


def kserve_server(model: Path, threads: int) -> OurServer:
    """kserve's model server in one process."""
    return OurServer(model, threads, name=KSERVE)


def ray_server(model: Path, threads: int, name: str = RAY, options: Sequence[str] = ()) -> OurServer:
    """The application on a Ray cluster of its own, with so many threads for each replica."""
    return OurServer(model, threads, name, ("--platform", "ray", "--log-level", "warning", *options))


def bare_engine(
    model: Path, threads: int, setup: Setup, prompts: Sequence[str], max_tokens: int, clients: int
) -> LoadResult:
    """A closed loop of requests submitted to an engine in this process: no HTTP, no protocol."""
    settings = Settings(
        model=str(model),
        threads=threads,
        max_sequences=setup.sequences,
        context_tokens=setup.context_tokens,
        max_sequence_tokens=setup.sequence_tokens,
    )
    # Loaded on a thread that ends, as the servers do: OpenMP keeps threads for each thread that llama.cpp has
    # computed on, and once there are more than cores, those that wait between two steps go to sleep.
    with ThreadPoolExecutor(1) as pool:
        engine = pool.submit(Engine, plan_startup(settings).engine).result()
    try:
        return asyncio.run(_closed_loop(engine, prompts, max_tokens, clients))
    finally:
        engine.close()


async def _closed_loop(engine: Engine, prompts: Sequence[str], max_tokens: int, clients: int) -> LoadResult:
    params = SamplingParams(max_tokens=max_tokens, temperature=0, ignore_eos=True)
    waiting = iter(prompts)
    records: list[RequestRecord] = []

    async def client() -> None:
        for prompt in waiting:
            started = time.perf_counter()
            tokens = tuple(engine.tokenize(prompt, add_special=True, parse_special=True))
            times: list[float] = []
            (stream,) = engine.submit_all([Request("bare", tokens, params)])
            async for delta in stream:
                now = time.perf_counter()
                times += [now - started] if delta.text else []
            duration = time.perf_counter() - started
            records.append(RequestRecord(started, tuple(times), duration, len(tokens), max_tokens))

    await asyncio.gather(*(client() for _ in range(clients)))
    return LoadResult(tuple(records), 0.0)


def proportional_memory(process: psutil.Process) -> tuple[int, int]:
    """Bytes of a server's processes together, and of the largest; shared pages count in parts."""
    sizes = [
        one.memory_full_info().pss
        for one in (process, *process.children(recursive=True))
        if one.status() != psutil.STATUS_ZOMBIE
    ]
    return sum(sizes), max(sizes)
