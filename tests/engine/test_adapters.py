"""LoRA adapters on the real model: each request gets its own, whoever else is in flight."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import llama_cpp
import numpy as np
import pytest
from adapter_files import write_adapter
from near_ties import agree

from predictor.engine.config import AdapterConfig
from predictor.engine.engine import Engine
from predictor.engine.prefix_store import PrefixStore
from predictor.engine.request import Request, SamplingParams
from predictor.errors import InvalidRequest, ModelLoadError
from predictor.generation.text import Completion, collect

MakeEngine = Callable[..., Engine]
PARAMS = SamplingParams(temperature=0, max_tokens=12, top_logprobs=20)
STORY = "Once upon a time there was a king who had three daughters. "


@pytest.fixture(scope="session")
def adapters(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, AdapterConfig]:
    folder = tmp_path_factory.mktemp("adapters")
    return {
        name: AdapterConfig(write_adapter(folder / f"{name}.gguf", model_path, seed))
        for seed, name in enumerate(("one", "two"))
    }


@pytest.fixture(params=[None, 512], ids=["one pool", "slots"])
def engine(
    request: pytest.FixtureRequest, make_engine: MakeEngine, adapters: dict[str, AdapterConfig]
) -> Engine:
    """With either layout of cells."""
    return make_engine(adapters=adapters, max_sequence_tokens=request.param)


def ask(engine: Engine, text: str, adapter: str | None, params: SamplingParams = PARAMS) -> Request:
    rendered = f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
    tokens = engine.tokenize(rendered, add_special=False, parse_special=True)
    return Request("test", tuple(tokens), params, adapter=adapter)


async def complete(engine: Engine, *requests: Request) -> list[Completion]:
    streams = engine.submit_all(requests)
    pairs = zip(streams, requests, strict=True)
    return list(await asyncio.gather(*(collect(s, len(r.prompt)) for s, r in pairs)))


async def test_each_adapter_says_the_same_alone_and_among_others(
    engine: Engine, make_engine: MakeEngine
) -> None:
    questions = [f"What is the capital of {country}?" for country in ("France", "Japan")]
    names = (None, "one", "two")
    requests = [ask(engine, question, name) for question in questions for name in names]
    alone = [(await complete(engine, request))[0] for request in requests]
    assert len({answer.text for answer in alone[:3]}) == 3
    assert "Paris" in alone[0].text
    mixed = await complete(engine, *reversed(requests))
    for one, other in zip(alone, reversed(mixed), strict=True):
        assert agree(one, other)
    plain = make_engine()
    for request, answer in zip(requests[::3], alone[::3], strict=True):
        assert agree(answer, (await complete(plain, request))[0])


async def test_an_adapter_computes_what_llama_cpp_computes_with_it(
    make_engine: MakeEngine, model_path: Path, adapters: dict[str, AdapterConfig]
) -> None:
    """Beside llama-cpp-python's own class, which loads the adapter by itself, without flash attention."""
    engine = make_engine(adapters=adapters, flash_attention="off")
    request = ask(engine, "What is the capital of France?", "one")
    [answer] = await complete(engine, request)
    reference = llama_cpp.Llama(
        str(model_path), lora_path=str(adapters["one"].path), logits_all=True, verbose=False, n_ctx=256
    )
    reference.eval(list(request.prompt))
    logits = reference.scores[len(request.prompt) - 1].astype(np.float64)
    reference.close()
    logprobs = logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())
    for top in answer.logprobs[0].top[:10]:
        assert top.logprob == pytest.approx(logprobs[top.token], abs=0.01)


async def test_the_scale_is_applied(make_engine: MakeEngine, adapters: dict[str, AdapterConfig]) -> None:
    path = adapters["one"].path
    scales = {"off": 0.0, "half": 0.5, "full": 1.0}
    engine = make_engine(adapters={name: AdapterConfig(path, scale) for name, scale in scales.items()})
    question = "What is the capital of France?"
    names = (None, "off", "half", "full")
    plain, off, half, full = [(await complete(engine, ask(engine, question, n)))[0] for n in names]
    assert agree(plain, off)
    assert len({answer.logprobs[0].logprob for answer in (plain, half, full)}) == 3


async def test_cells_of_one_adapter_are_never_taken_for_another(engine: Engine) -> None:
    question = STORY * 8 + "How many daughters?"
    lengths = []
    for name in (None, "one", "one", None, "two"):
        [answer] = await complete(engine, ask(engine, question, name))
        lengths.append(answer.cached_tokens)
    whole = len(ask(engine, question, None).prompt) - 1
    assert lengths == [0, 0, whole, whole, 0]


async def test_a_saved_prefix_comes_back_with_its_adapter_after_a_restart(
    make_engine: MakeEngine, adapters: dict[str, AdapterConfig], tmp_path: Path
) -> None:
    keys = {name: name for name in adapters}
    first = make_engine(adapters=adapters, prefix_store=PrefixStore(tmp_path, "demo", 2**30, keys))
    question = STORY * 8 + "How many daughters?"
    [before] = await complete(first, ask(first, question, "one"))
    first.close()
    engine = make_engine(adapters=adapters, prefix_store=PrefixStore(tmp_path, "demo", 2**30, keys))
    [plain] = await complete(engine, ask(engine, question, None))
    [after] = await complete(engine, ask(engine, question, "one"))
    assert (plain.cached_tokens, after.cached_tokens) == (0, before.prompt_tokens - 1)
    assert agree(before, after)


async def test_a_long_prompt_of_one_adapter_does_not_stop_streams_of_another(
    make_engine: MakeEngine, adapters: dict[str, AdapterConfig]
) -> None:
    engine = make_engine(adapters=adapters, max_batch_tokens=32)
    endless = SamplingParams(max_tokens=4000, ignore_eos=True)
    prompt = Request("long", tuple(range(1000, 1600)), SamplingParams(max_tokens=1), adapter="two")
    [stream] = engine.submit_all([ask(engine, "Count.", "one", endless)])
    await anext(stream)
    [long] = engine.submit_all([prompt])
    answer = asyncio.create_task(collect(long, 600))
    during = 0
    async for delta in stream:
        during = delta.completion_tokens
        if answer.done():
            break
    stream.cancel()
    # 600 tokens in steps of at most 32 that take turns with the stream's.
    assert during >= 15
    assert (await answer).completion_tokens == 1


async def test_an_adapter_that_is_not_there_is_refused(engine: Engine) -> None:
    with pytest.raises(InvalidRequest, match="no adapter 'three'"):
        engine.submit_all([ask(engine, "Hi", "three")])


async def test_the_adapters_at_work_are_named(
    make_engine: MakeEngine, adapters: dict[str, AdapterConfig]
) -> None:
    engine = make_engine(adapters=adapters, max_sequences=1)
    endless = SamplingParams(max_tokens=4000, ignore_eos=True)
    first, second, third = engine.submit_all(
        [ask(engine, "Count.", "two", endless), ask(engine, "Sing.", "one"), ask(engine, "Sing.", None)]
    )
    await anext(first)
    stats = engine.stats()
    assert (stats.running_adapters, stats.waiting_adapters) == (("two",), ("one",))
    for stream in (first, second, third):
        stream.cancel()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"architecture": "gemma"}, "mismatch"),
        ({"kind": "model"}, "general.type"),
        ({"extra_width": 32}, "wrong base model"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused_with_llama_cpps_reason(
    make_engine: MakeEngine, model_path: Path, tmp_path: Path, options: dict[str, object], reason: str
) -> None:
    path = write_adapter(tmp_path / "bad.gguf", model_path, 1, **options)
    with pytest.raises(ModelLoadError, match=reason):
        make_engine(adapters={"bad": AdapterConfig(path)})
