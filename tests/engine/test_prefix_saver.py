"""Prefixes are saved while the engine works: one copy at a time, and only where there is something new."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from predictor.engine import prefix_saver
from predictor.engine.engine import Engine
from predictor.engine.llama import Context
from predictor.engine.prefix_store import SUFFIX, PrefixStore
from predictor.engine.request import Request, SamplingParams
from predictor.generation.text import collect
from tests.tiny_models import tiny_llama

MakeEngine = Callable[..., Engine]


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that computes next to nothing."""
    return tiny_llama(tmp_path_factory.mktemp("tiny") / "tiny.gguf").path


async def ask(engine: Engine, first: int, tokens: int = 200) -> int:
    """Serve a prompt of its own; how many of its tokens were cached."""
    prompt = (first, *range(4, 3 + tokens))
    [stream] = engine.submit_all([Request("r", prompt, SamplingParams(max_tokens=2, ignore_eos=True))])
    return (await collect(stream, tokens)).cached_tokens


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.02)


class Copies:
    """Counts copies of cells, and how many of them there were at the same time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made = self.alive = self.most = 0
        save = Context.save

        def counted(context: Context, sequence_id: int) -> Any:
            state = save(context, sequence_id).view(_Counted)
            self.made += 1
            self.alive += 1
            self.most = max(self.most, self.alive)
            weakref.finalize(state, self._gone)
            return state

        monkeypatch.setattr(Context, "save", counted)

    def _gone(self) -> None:
        self.alive -= 1


class _Counted(np.ndarray[Any, Any]):
    pass


@pytest.fixture(params=["pool", "slots"])
def layout(request: pytest.FixtureRequest) -> dict[str, int]:
    slots = {"max_sequences": 6, "max_sequence_tokens": 512}
    return {"max_sequences": 6, "context_tokens": 4096} if request.param == "pool" else slots


async def test_no_more_than_one_copy_is_in_memory_and_none_is_made_twice(
    make_engine: MakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: dict[str, int]
) -> None:
    monkeypatch.setattr(prefix_saver, "SAVE_SECONDS", 0.5)
    monkeypatch.setattr("predictor.engine.decode_loop.RETAINED_CELLS", 4096)
    copies = Copies(monkeypatch)
    engine = make_engine(prefix_store=PrefixStore(tmp_path, "demo", 2**30), host_cache_bytes=2**20, **layout)
    await asyncio.gather(*(ask(engine, 200 + number) for number in range(1, 6)))

    def saved() -> int:
        return len(list(tmp_path.rglob(f"*{SUFFIX}")))

    await until(lambda: saved() == 5)
    assert (copies.made, copies.most) == (5, 1)
    times = {file: file.stat().st_mtime_ns for file in tmp_path.rglob(f"*{SUFFIX}")}
    await asyncio.sleep(1.5)
    assert times == {file: file.stat().st_mtime_ns for file in tmp_path.rglob(f"*{SUFFIX}")}, "it was idle"
    await ask(engine, 250)
    await until(lambda: saved() == 6)
    engine.close()
    assert copies.made <= 8
    again = make_engine(prefix_store=PrefixStore(tmp_path, "demo", 2**30), **layout)
    assert [await ask(again, 200 + number) for number in range(1, 6)] == [199] * 5


async def test_a_copy_that_fails_ends_a_save_and_nothing_else(
    make_engine: MakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefix_saver, "SAVE_SECONDS", 0.2)

    def fail(_context: Context, _sequence_id: int) -> None:
        raise RuntimeError("no copy")

    monkeypatch.setattr(Context, "save", fail)
    engine = make_engine(prefix_store=PrefixStore(tmp_path, "demo", 2**30))
    for number in range(1, 4):
        await ask(engine, 200 + number)
        await asyncio.sleep(0.3)
    assert engine.failure is None
    engine.close()
