"""A draft model has a budget, stops when it is told to, shares what it reads, and may fail."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from predictor.engine.draft_model import FIRST_TOKENS, DraftModel
from predictor.engine.engine import Engine
from predictor.engine.llama import Batch, Context
from predictor.engine.request import Request, SamplingParams
from predictor.engine.sequence import Sequence
from predictor.engine.speculation import Speculator
from predictor.engine.stream import TokenStream
from predictor.errors import EngineFailure, NotReady
from predictor.generation.text import Completion, collect
from tests.tiny_models import tiny_llama

MakeEngine = Callable[..., Engine]
POOL = {"context_tokens": 8192, "max_sequences": 4}
SLOTS = {"max_sequence_tokens": 3000, "max_sequences": 4}


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that computes next to nothing."""
    return tiny_llama(tmp_path_factory.mktemp("tiny") / "tiny.gguf").path


@pytest.fixture(autouse=True)
def guess_always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it costs: a model that drafts for itself is never worth its time."""
    monkeypatch.setattr(Speculator, "_count", lambda self, _sequence, _worth: self._max_draft_tokens)
    monkeypatch.setattr(Speculator, "_gain", lambda *_arguments: math.inf)


@pytest.fixture(params=["pool", "slots"])
def drafting(request: pytest.FixtureRequest, make_engine: MakeEngine, model_path: Path) -> Engine:
    """An engine whose model drafts for itself."""
    layout = POOL if request.param == "pool" else SLOTS
    return make_engine(draft_model=model_path, draft_tokens=3, **layout)


def prompt(length: int, seed: int = 0) -> tuple[int, ...]:
    return tuple(random.Random(seed).choices(range(3, 286), k=length))


def submit(engine: Engine, *prompts: tuple[int, ...], max_tokens: int = 20) -> list[TokenStream]:
    params = SamplingParams(temperature=0, max_tokens=max_tokens, ignore_eos=True, top_logprobs=1)
    return engine.submit_all([Request(f"r{number}", p, params) for number, p in enumerate(prompts)])


async def complete(engine: Engine, *prompts: tuple[int, ...], max_tokens: int = 20) -> list[Completion]:
    streams = submit(engine, *prompts, max_tokens=max_tokens)
    return await asyncio.gather(*(collect(stream, 1) for stream in streams))


class Readings:
    """How many tokens the draft model read at once, and how far the first sequence of all was then."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, before: Callable[[], object] = int) -> None:
        self.counts: list[int] = []
        self.progress: list[int] = []
        self.watched: Sequence | None = None
        compute = DraftModel._compute

        def counted(drafter: DraftModel, sequence: Sequence, follower: Any, count: int) -> None:
            self.watched = self.watched or sequence
            self.counts.append(count)
            self.progress.append(self.watched.num_generated)
            before()
            compute(drafter, sequence, follower, count)

        monkeypatch.setattr(DraftModel, "_compute", counted)


async def test_a_model_drafts_for_itself(make_engine: MakeEngine, drafting: Engine) -> None:
    prompts = [prompt(length, length) for length in (1, 2, 30, 400)]
    answers = await complete(drafting, *prompts)
    expected = await complete(make_engine(**POOL), *prompts)
    for answer, wanted in zip(answers, expected, strict=True):
        for got, token in zip(answer.logprobs, wanted.logprobs, strict=True):
            if got.token != token.token:  # a near tie, after which they tell different stories
                break
            assert got.logprob == pytest.approx(token.logprob, abs=0.05)
    stats = drafting.stats()
    assert stats.accepted_tokens > 0.8 * stats.drafted_tokens > 20


async def test_a_long_prompt_is_read_in_parts_and_streams_go_on_between(
    drafting: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = DraftModel._read
    monkeypatch.setattr(DraftModel, "_read", lambda drafter, late, _seconds: read(drafter, late, 0.0))
    readings = Readings(monkeypatch)
    [stream] = submit(drafting, prompt(40), max_tokens=400)
    await anext(stream)
    [long] = submit(drafting, prompt(800, 1), max_tokens=100)
    await collect(long, 1)
    stream.cancel()
    assert sum(readings.counts) > 700
    assert max(readings.counts) <= FIRST_TOKENS
    assert all(earlier < later for earlier, later in pairwise(readings.progress[3:])), (
        "the first stream got a token between any two parts"
    )


async def test_aborting_stops_what_the_draft_model_reads(
    drafting: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    readings = Readings(monkeypatch, lambda: len(readings.counts) == 3 and drafting.abort())
    [stream] = submit(drafting, prompt(2500), max_tokens=300)
    with pytest.raises(NotReady):
        await collect(stream, 1)
    drafting.close()
    assert len(readings.counts) == 3


async def test_a_prompt_that_several_send_is_read_once(
    drafting: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    readings = Readings(monkeypatch)
    shared = prompt(1000)
    await complete(drafting, *(shared + prompt(20, seed) for seed in range(1, 5)))
    assert 900 < sum(readings.counts) < 1300


async def test_a_draft_that_fails_costs_nothing_but_its_guesses(
    drafting: Engine, make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    draft_context = drafting._loop._speculator._drafter._context  # type: ignore[union-attr]
    decode, calls = Context.decode, 0

    def failing(context: Context, batch: Batch) -> None:
        nonlocal calls
        if context is draft_context:
            calls += 1
            if calls % 9 == 0:
                raise EngineFailure("the draft model failed")
        decode(context, batch)

    monkeypatch.setattr("predictor.engine.speculation.PROBE_STEPS", 2)
    monkeypatch.setattr(Context, "decode", failing)
    prompts = [prompt(50, seed) for seed in range(4)]
    answers = await complete(drafting, *prompts)
    assert calls > 18
    assert drafting.failure is None
    assert [answer.completion_tokens for answer in answers] == [20] * 4
    expected = await complete(make_engine(**POOL), *prompts)
    assert [a.text[:2] for a in answers] == [e.text[:2] for e in expected]
    assert drafting.stats().accepted_tokens > 0


async def test_a_full_draft_cache_costs_guesses_only(make_engine: MakeEngine, model_path: Path) -> None:
    engine = make_engine(draft_model=model_path, draft_tokens=3, context_tokens=256, max_sequences=4)
    answers = await complete(engine, *(prompt(60, seed) for seed in range(8)), max_tokens=40)
    assert [answer.completion_tokens for answer in answers] == [40] * 8
    assert engine.stats().accepted_tokens > 0
