"""The questions asked of servers that are started for each answer: cold start and the original container."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.measure import Metric, Outcome, turns
from benchmarks.results import LLAMA_SERVER, Measurement
from benchmarks.servers import OriginalContainer, RunningServer, Server, Setup, running
from predictor.client import prompts
from predictor.client.load import LoadGenerator, completion

_SETUP = Setup(sequences=16, context_tokens=32768)
_POINT = "first request"
_PREDICT_CLIENTS = {"1 client": 1, "8 clients": 8}
_PREDICT_NEW_TOKENS = 64
_PREDICT_TIMEOUT_SECONDS = 120


@dataclass(frozen=True, slots=True)
class ColdStart:
    """Process start to ready and to the first token, one server at a time."""

    name: str = "cold-start"
    title: str = "Cold start"
    explanation: str = (
        "From starting the process to its readiness check, and to the first token of a short prompt sent "
        "right then. The model file and the programs are in the page cache; no other server runs."
    )
    metrics: Sequence[Metric] = (
        Metric("ready_seconds", "process start to ready, s", {}),
        Metric("first_token_seconds", "process start to first token, s", {}),
    )
    setup: Setup = _SETUP
    same_work: bool = True

    def measurement_count(self, servers: Sequence[Server], rounds: int) -> int:
        return len(servers) * rounds

    async def measure(self, servers: Sequence[Server], rounds: int) -> AsyncIterator[Measurement]:
        for round_, index in turns(rounds, len(servers)):
            async with running(servers[index], self.setup) as instance:
                yield await _first_request(instance, self.name, round_)


async def _first_request(instance: RunningServer, scenario: str, round_: int) -> Measurement:
    async with LoadGenerator(instance.base_url) as generator:
        stream = await generator.stream(completion(instance.model_name, prompts.text(20, "first"), 1))
    record = stream.record()
    metrics = {"ready_seconds": instance.ready_seconds}
    if record.time_to_first_token is not None:
        metrics["first_token_seconds"] = record.started + record.time_to_first_token - instance.started
    return Measurement(
        scenario,
        _POINT,
        instance.name,
        round_,
        metrics,
        seconds=stream.ended - instance.started,
        prompt_tokens=record.prompt_tokens,
        completion_tokens=record.completion_tokens,
        server_cpu_seconds=instance.cpu_seconds(),
        server_memory_bytes=instance.memory_bytes(),
        errors=(record.error,) if record.error else (),
        records=(record,),
    )


@dataclass(frozen=True, slots=True)
class OriginalContainerContract:
    """Concurrent `POST /predict`, the original container's route, on it and on ours."""

    model: Path
    name: str = "original-container"
    title: str = "The original container's contract"
    explanation: str = (
        "Clients call POST /predict at once, one request each. The original is the Flask app with one "
        "llama_cpp.Llama at import, without the container around it. Ours is asked for "
        f"{_PREDICT_NEW_TOKENS} tokens; the original knows no such field and generates until it "
        "stops by itself or its context of 512 tokens is full."
    )
    metrics: Sequence[Metric] = (
        Metric("answered", "requests answered", {}),
        Metric("alive", "server alive afterwards (1 yes, 0 no)", {}),
        Metric("total_seconds", "time until all answers or failures, s", {}),
    )
    setup: Setup = _SETUP
    same_work: bool = False

    def measurement_count(self, servers: Sequence[Server], rounds: int) -> int:
        return len(_PREDICT_CLIENTS) * len(self._both(servers)) * rounds

    async def measure(self, servers: Sequence[Server], rounds: int) -> AsyncIterator[Measurement]:
        pair = self._both(servers)
        for point, clients in _PREDICT_CLIENTS.items():
            for round_, index in turns(rounds, len(pair)):
                async with running(pair[index], self.setup) as instance:
                    outcome = await _predict_all(instance, clients)
                yield Measurement(
                    self.name,
                    point,
                    instance.name,
                    round_,
                    outcome.metrics,
                    seconds=outcome.metrics["total_seconds"],
                    errors=outcome.errors,
                )

    def _both(self, servers: Sequence[Server]) -> list[Server]:
        ours = [server for server in servers if server.name != LLAMA_SERVER]
        return [*ours, OriginalContainer(self.model)]


async def _predict_all(instance: RunningServer, clients: int) -> Outcome:
    timeout = aiohttp.ClientTimeout(total=_PREDICT_TIMEOUT_SECONDS)
    async with aiohttp.ClientSession(instance.base_url, timeout=timeout) as session:
        started = time.perf_counter()
        answers = await asyncio.gather(*(_predict(session, i) for i in range(clients)))
        seconds = time.perf_counter() - started
    await asyncio.sleep(0.5)  # an aborting process takes a moment to end
    code = instance.process.poll()
    errors = [answer for answer in answers if answer is not None]
    if code is not None:
        errors.insert(0, f"the server ended with code {code}")
    metrics = {
        "answered": float(answers.count(None)),
        "alive": float(code is None),
        "total_seconds": seconds,
    }
    return Outcome(metrics, errors=tuple(errors))


async def _predict(session: aiohttp.ClientSession, index: int) -> str | None:
    """None for a good answer, else what was wrong with it."""
    body = {
        "sys_msg": "You are a helpful assistant.",
        "prompt": prompts.text(30, f"predict {index}"),
        "max_tokens": _PREDICT_NEW_TOKENS,
    }
    try:
        async with session.post("/predict", json=body) as response:
            if response.status != 200:
                return f"HTTP {response.status}: {(await response.text())[:200]}"
            answer: Any = await response.json()
            text = answer["response"]["choices"][0]["text"]
            return None if isinstance(text, str) else f"not a completion: {str(answer)[:200]}"
    except (aiohttp.ClientError, TimeoutError, KeyError, TypeError) as error:
        return f"{type(error).__name__}: {error}"
