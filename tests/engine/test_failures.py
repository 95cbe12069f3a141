"""What fails on the way costs what it must, and a failed engine is over: nothing waits for it."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf
import numpy as np
import pytest

from predictor.engine.config import EngineConfig, Pooling
from predictor.engine.engine import Engine
from predictor.engine.generator import Job
from predictor.engine.llama import Context, Sampler
from predictor.engine.request import Request, SamplingParams
from predictor.errors import EngineFailure
from predictor.generation.text import Completion, collect
from tests.tiny_models import tiny_bert, tiny_llama

MakeEngine = Callable[..., Engine]


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that computes next to nothing."""
    return tiny_llama(tmp_path_factory.mktemp("tiny") / "tiny.gguf").path


def request(seed: int, length: int = 100, max_tokens: int = 8) -> Request:
    prompt = tuple(random.Random(seed).choices(range(3, 286), k=length))
    return Request(f"r{seed}", prompt, SamplingParams(temperature=0, max_tokens=max_tokens, ignore_eos=True))


async def answers(engine: Engine, *requests: Request) -> list[Completion | BaseException]:
    streams = engine.submit_all(requests)
    return await asyncio.gather(*(collect(s, 1) for s in streams), return_exceptions=True)


def kinds(outcomes: list[Completion | BaseException]) -> list[type]:
    return [type(outcome) for outcome in outcomes]


def texts(outcomes: list[Completion | BaseException]) -> list[str | None]:
    return [outcome.text if isinstance(outcome, Completion) else None for outcome in outcomes]


async def test_a_sampler_that_fails_costs_its_request(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine(max_sequences=4)
    expected = await answers(engine, *map(request, range(3)))
    sample, calls = Sampler.sample, 0

    def failing(sampler: Sampler, context: Context, index: int) -> int:
        nonlocal calls
        calls += 1
        if calls == 8:
            raise RuntimeError("no token")
        return sample(sampler, context, index)

    monkeypatch.setattr(Sampler, "sample", failing)
    outcomes = await answers(engine, *map(request, range(3)))
    assert sorted(kind.__name__ for kind in kinds(outcomes)) == ["Completion", "Completion", "EngineFailure"]
    assert sum(a == b for a, b in zip(texts(outcomes), texts(expected), strict=True)) == 2
    monkeypatch.undo()
    assert texts(await answers(engine, *map(request, range(3)))) == texts(expected)
    assert engine.failure is None
    assert (engine.stats().running, engine.stats().kv_pinned) == (0, 0)


async def test_a_vector_that_cannot_be_had_costs_its_request(
    make_engine: MakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny_bert(tmp_path / "bert.gguf", gguf.PoolingType.MEAN).path
    engine = make_engine(model_path=path, pooling=Pooling.MEAN, max_sequences=4, context_tokens=256)
    pooled, calls = Context.pooled, 0

    def failing(context: Context, sequence_id: int) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise EngineFailure("llama.cpp gave no vector for a sequence")
        return pooled(context, sequence_id)

    monkeypatch.setattr(Context, "pooled", failing)
    texts = [Request(f"r{n}", (2, 5 + n, 6, 3), SamplingParams()) for n in range(3)]
    outcomes = [[delta async for delta in s] if n != 1 else s for n, s in enumerate(engine.submit_all(texts))]
    with pytest.raises(EngineFailure):
        _ = [delta async for delta in outcomes[1]]
    assert engine.failure is None


async def test_a_copy_of_cells_that_fails_costs_time_only(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine(max_sequences=4, max_sequence_tokens=512)
    expected = await answers(engine, request(1, 300))
    restore, failures = Context.restore, 0

    def failing(context: Context, sequence_id: int, state: Any) -> bool:
        nonlocal failures
        failures += 1
        return restore(context, sequence_id, state[: len(state) // 2])

    monkeypatch.setattr(Context, "restore", failing)
    [stream] = engine.submit_all([request(1, 300, max_tokens=150)])
    await anext(stream)
    outcomes = await answers(engine, *[request(1, 300)] * 3)
    stream.cancel()
    assert failures > 0
    assert texts(outcomes) == texts(expected) * 3
    assert engine.failure is None


def break_step(engine: Engine) -> None:
    """Let the decode thread fail, and wait until it is over."""

    def fail() -> None:
        raise RuntimeError("boom")

    engine._loop.step = fail  # type: ignore[method-assign]
    engine._tell((SimpleNamespace(sequence=None), False))  # something to do
    engine._thread.join()


async def test_a_request_that_comes_while_the_engine_fails_gets_its_error(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Admitted before the failure, handed over after it."""
    engine = make_engine()
    new_job = Engine._new_job

    def late(engine: Engine, request: Request) -> Job:
        if engine._thread.is_alive():
            break_step(engine)
        return new_job(engine, request)

    monkeypatch.setattr(Engine, "_new_job", late)
    with pytest.raises(EngineFailure, match="boom"):
        engine.submit_all([request(1), request(2)])
    assert await engine.drain(60) is True


async def test_a_failed_engine_looks_idle(make_engine: MakeEngine) -> None:
    """Whoever counts what runs must not wait for what never ends."""
    engine = make_engine(max_sequences=2, context_tokens=4096)
    streams = engine.submit_all([request(n, max_tokens=4000) for n in range(5)])
    async for _ in streams[0]:
        break
    before = engine.stats()
    assert before.running == 2
    break_step(engine)
    stats = engine.stats()
    assert (stats.running, stats.waiting, stats.kv_used, stats.kv_pinned) == (0, 0, 0, 0)
    assert stats.steps >= before.steps
    for stream in streams:
        with pytest.raises(EngineFailure):
            _ = [delta async for delta in stream]
    assert await engine.drain(60) is True


async def test_ends_and_submissions_at_the_same_time(model_path: Path) -> None:
    """Whatever happens first, every stream ends and every place is given back."""
    for delay in np.linspace(0, 0.02, 12):
        engine = Engine(EngineConfig(model_path=model_path, threads=1, batch_threads=1))
        fail = asyncio.get_running_loop().run_in_executor(None, _fail_after, engine, delay)
        streams, refused = [], 0
        for number in range(400):
            try:
                streams += engine.submit_all([request(number % 7, 3, max_tokens=2)])
            except Exception:
                refused += 1
                if refused > 3:
                    break
            if number % 5 == 0:
                await asyncio.sleep(0)
        await fail
        async with asyncio.timeout(20):
            outcomes = await asyncio.gather(*(collect(s, 1) for s in streams), return_exceptions=True)
        assert {*kinds(outcomes)} <= {Completion, EngineFailure}
        assert engine._unfinished == 0
        engine.close()


def _fail_after(engine: Engine, delay: float) -> None:
    time.sleep(delay)
    break_step(engine)
