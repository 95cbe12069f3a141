"""Models whose past can't be cut anywhere go on from where their state was kept."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from predictor.engine.config import EngineConfig
from predictor.engine.engine import Engine
from predictor.engine.prefix_store import PrefixStore
from predictor.engine.request import Request, SamplingParams
from predictor.engine.resume_points import ResumePoints
from predictor.engine.sequence import Sequence as EngineSequence
from predictor.engine.stream import TokenStream
from tests.family_models import FAMILIES, write_family
from tests.tiny_models import tiny_llama

CONTROL = 2
LAYOUTS: dict[str, dict[str, Any]] = {
    "slots": {"max_sequence_tokens": 640},
    "one pool": {"context_tokens": 4096},
}


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_family(tmp_path_factory.mktemp("family") / "tiny.gguf", request.param)


@pytest.fixture(params=LAYOUTS)
def engine(request: pytest.FixtureRequest, model: Path) -> Iterator[Engine]:
    with closing(make(model, **LAYOUTS[request.param])) as engine:
        yield engine


def make(model: Path, **options: Any) -> Engine:
    return Engine(EngineConfig(model, threads=1, batch_threads=1, max_sequences=4, **options))


def text(length: int, seed: int = 0) -> tuple[int, ...]:
    return tuple(random.Random(seed).choices(range(3, 286), k=length))


async def ask(engine: Engine, *prompts: Sequence[int], tokens: int = 10) -> list[tuple[int, tuple[int, ...]]]:
    """How many tokens of each prompt were taken over, and the answers."""
    params = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True, top_logprobs=0)
    streams = engine.submit_all([Request("r", tuple(prompt), params) for prompt in prompts])
    return await asyncio.gather(*map(_read, streams))


async def _read(stream: TokenStream) -> tuple[int, tuple[int, ...]]:
    cached, answer = 0, []
    async for delta in stream:
        cached = delta.cached_tokens
        answer += [entry.token for entry in delta.logprobs]
    return cached, tuple(answer)


async def test_a_chat_goes_on_where_it_ended_or_where_its_last_message_began(engine: Engine) -> None:
    prompt = (*text(150), CONTROL, *text(3, 1))
    [(cached, answer)] = await ask(engine, prompt, tokens=100)
    assert cached == 0
    [(cached, _)] = await ask(engine, (*prompt, *answer, *text(20, 2)))
    assert cached == 154 + 99, "the last token of an answer has no cell yet"
    # A template that shows the answer otherwise; and the same prompt again.
    [(cached, _)] = await ask(engine, (*prompt, *text(120, 3)))
    assert cached >= 150
    [(cached, again)] = await ask(engine, prompt, tokens=100)
    assert cached >= 150
    assert again == answer


async def test_a_beginning_that_several_share_is_computed_once(engine: Engine) -> None:
    shared = text(300)
    answers = await ask(engine, *((*shared, *text(20, seed)) for seed in range(1, 5)))
    assert sorted(cached for cached, _ in answers) == [0, 300, 300, 300]
    alone = [await ask(engine, (*shared, *text(20, seed))) for seed in range(1, 5)]
    assert min(cached for [(cached, _)] in alone) >= 300
    for (_, answer), [(_, expected)] in zip(answers, alone, strict=True):
        assert answer == expected


async def test_states_outlive_the_process(model: Path, tmp_path: Path) -> None:
    prompt = text(300)
    cached = []
    for _ in range(2):
        store = PrefixStore(tmp_path, "tiny", 2**28)
        with closing(make(model, max_sequence_tokens=640, prefix_store=store)) as engine:
            cached.append(await ask(engine, prompt, tokens=80))
    [[(before, first)], [(after, second)]] = cached
    assert (before, after) == (0, 299)
    assert first == second


async def test_without_memory_for_states_a_chat_still_goes_on_in_place(model: Path) -> None:
    with closing(make(model, max_sequence_tokens=640, host_cache_bytes=0)) as engine:
        prompt = text(150)
        [(_, answer)] = await ask(engine, prompt)
        assert [cached for cached, _ in await ask(engine, (*prompt, *answer, *text(20, 2)))] == [159]


@pytest.mark.parametrize("memory", [0, 2**24])
async def test_a_chat_goes_on_in_one_pool_with_memory_for_prefixes_or_without(
    memory: int, tmp_path: Path
) -> None:
    model = tiny_llama(tmp_path / "tiny.gguf").path
    with closing(make(model, context_tokens=2048, host_cache_bytes=memory)) as engine:
        prompt = text(400)
        [(_, answer)] = await ask(engine, prompt)
        await ask(engine, text(300, 5))
        assert [cached for cached, _ in await ask(engine, (*prompt, *answer, *text(20, 2)))] == [409]


def sequence(length: int, computed: int = 0) -> EngineSequence:
    one = EngineSequence(Request("r", text(length), SamplingParams()), 10)
    one.num_computed = computed
    return one


def test_places_near_each_other_are_one() -> None:
    points = ResumePoints(lambda token: token == CONTROL)
    one = sequence(1000)
    points.plan(one, 500)
    assert one.stops == [500, 999]
    assert one.num_reachable == 500
    assert points.share(one, 510) == 500
    assert points.share(one, 480) == 480
    assert one.stops == [480, 999]
    assert points.share(one, 300) == 300
    assert one.stops == [300, 480, 999]
    one.num_computed = 300
    assert points.share(one, 330) == 0, "too late"


def test_short_prompts_are_not_worth_it() -> None:
    one = sequence(60)
    ResumePoints(lambda _: False).plan(one, 40)
    assert one.stops == []
    assert one.num_reachable == 60
