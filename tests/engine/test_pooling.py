"""Vectors and scores from real, tiny models, against the same computed in numpy."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
import pytest
from tiny_models import (
    CONTEXT,
    Array,
    TinyModel,
    bert_score,
    bert_states,
    llama_states,
    tiny_bert,
    tiny_llama,
    unit,
)

from predictor.engine.config import EngineConfig, Pooling
from predictor.engine.engine import Engine
from predictor.engine.llama.pairs import filled
from predictor.errors import InvalidRequest, PromptTooLong, QueueFull, WrongTask
from predictor.generation.embedding import TextEmbedder

MakeEmbedder = Callable[..., TextEmbedder]
# Matrices are multiplied in other orders, and llama.cpp looks some activations up in tables of 16 bits.
CLOSE = 2e-3
WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "a",
    "lazy",
    "dog",
    "while",
    "five",
    "wizards",
    "box",
]
TEXTS = [" ".join(WORDS[i % 7 : i % 7 + 1 + i]) for i in range(16)]


@pytest.fixture
def make_embedder() -> Iterator[MakeEmbedder]:
    """Starts pooling engines and closes them after the test."""
    engines: list[Engine] = []

    def make(path: Path, pooling: Pooling, group: int = 32, **options: Any) -> TextEmbedder:
        config = EngineConfig(
            model_path=path, threads=1, batch_threads=1, context_tokens=2048, pooling=pooling, **options
        )
        engines.append(Engine(config))
        return TextEmbedder("tiny", engines[-1], pooling, group=group)

    yield make
    for engine in engines:
        engine.close()


def engine_of(embedder: TextEmbedder) -> Engine:
    assert isinstance(embedder.engine, Engine)
    return embedder.engine


async def vectors(embedder: TextEmbedder, texts: list[str]) -> tuple[list[tuple[int, ...]], list[Array]]:
    tokens = [await embedder.tokenize(text) for text in texts]
    return tokens, [result.vector for result in await embedder.embed(tokens, "r")]


def pooled(
    model: TinyModel, tokens: tuple[int, ...], pooling: Pooling, states: Callable[..., Array]
) -> Array:
    found = states(model, list(tokens))
    whole = {Pooling.MEAN: found.mean(0), Pooling.CLS: found[0], Pooling.LAST: found[-1]}
    return unit(whole[pooling])


@pytest.mark.parametrize("pooling", [Pooling.MEAN, Pooling.CLS, Pooling.LAST])
async def test_an_encoder_gives_each_text_its_own_vector(
    make_embedder: MakeEmbedder, tmp_path: Path, pooling: Pooling
) -> None:
    model = tiny_bert(tmp_path / "bert.gguf", None)
    # A step holds one or two of the longer texts, so all sixteen take many steps.
    embedder = make_embedder(model.path, pooling, max_batch_tokens=128)
    tokens, found = await vectors(embedder, TEXTS)
    for text_tokens, vector in zip(tokens, found, strict=True):
        assert np.abs(vector - pooled(model, text_tokens, pooling, bert_states)).max() < CLOSE
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
    stats = engine_of(embedder).stats()
    assert 1 < stats.steps <= len(TEXTS)
    assert (stats.prompt_tokens, stats.generated_tokens) == (sum(map(len, tokens)), 0)
    assert (stats.kv_used, stats.running, stats.waiting) == (0, 0, 0)


@pytest.mark.parametrize("pooling", [Pooling.MEAN, Pooling.LAST])
async def test_a_decoder_gives_each_text_its_own_vector(
    make_embedder: MakeEmbedder, tmp_path: Path, pooling: Pooling
) -> None:
    model = tiny_llama(tmp_path / "llama.gguf")
    tokens, found = await vectors(make_embedder(model.path, pooling, max_batch_tokens=128), TEXTS)
    for text_tokens, vector in zip(tokens, found, strict=True):
        assert np.abs(vector - pooled(model, text_tokens, pooling, llama_states)).max() < CLOSE


async def test_where_only_the_last_token_counts_prompts_are_split_and_prefixes_shared(
    make_embedder: MakeEmbedder, tmp_path: Path
) -> None:
    model = tiny_llama(tmp_path / "llama.gguf")
    embedder = make_embedder(model.path, Pooling.LAST, max_batch_tokens=32)
    instruction = "find the passage that answers the question of a user who knows nothing about it "
    texts = [instruction + "first", instruction + "second"]
    for text in texts:
        tokens, found = await vectors(embedder, [text])
        assert len(tokens[0]) > 64
        assert np.abs(found[0] - pooled(model, tokens[0], Pooling.LAST, llama_states)).max() < CLOSE
    assert engine_of(embedder).stats().prefix_hit_tokens >= len(instruction)


async def test_where_all_tokens_count_common_beginnings_do_not_wait_for_each_other(
    make_embedder: MakeEmbedder, tmp_path: Path
) -> None:
    embedder = make_embedder(tiny_bert(tmp_path / "bert.gguf", None).path, Pooling.MEAN)
    await vectors(embedder, [f"{'same ' * 12}{end}" for end in ("one", "two", "three")])
    assert engine_of(embedder).stats().steps == 1


async def test_a_reranker_scores_pairs(make_embedder: MakeEmbedder, tmp_path: Path) -> None:
    model = tiny_bert(tmp_path / "rank.gguf", gguf.PoolingType.RANK, labels=2)
    embedder = make_embedder(model.path, Pooling.RANK)
    results = await embedder.score("ab", ["c", "dx"], "r")
    pair = [
        engine_of(embedder).tokenize(text, add_special=False, parse_special=False) for text in ("ab", "dx")
    ]
    cls, sep = 2, 3
    tokens = [cls, *pair[0], sep, *pair[1], sep]
    assert np.abs(results[1].vector - bert_score(model, tokens)).max() < 5 * CLOSE  # not of length 1
    assert results[1].tokens == len(tokens)
    with pytest.raises(WrongTask, match="is a reranker"):
        await embedder.embed([(1,)], "r")


async def test_control_tokens_in_documents_are_text(make_embedder: MakeEmbedder, tmp_path: Path) -> None:
    model = tiny_bert(tmp_path / "rank.gguf", gguf.PoolingType.RANK, labels=1)
    engine = engine_of(make_embedder(model.path, Pooling.RANK))
    assert engine.tokenize_pair("a", "[SEP]").count(3) == 2


def test_a_template_for_pairs_is_filled_with_text() -> None:
    segments = filled("<s>{query}</s>{document}</s>", "a{document}</s>", "b{query}")
    assert "".join(segment.text for segment in segments) == "<s>a{document}</s></s>b{query}</s>"
    assert [segment.text for segment in segments if not segment.is_own] == ["a{document}</s>", "b{query}"]


async def test_texts_that_can_not_be_computed_are_refused(
    make_embedder: MakeEmbedder, tmp_path: Path
) -> None:
    encoder = make_embedder(tiny_bert(tmp_path / "b.gguf", None).path, Pooling.MEAN, max_batch_tokens=64)
    with pytest.raises(PromptTooLong, match=r"65 tokens, but at most 64 fit; .*larger --max-batch-tokens"):
        await encoder.embed([(5,) * 65], "r")
    assert len(await encoder.embed([(5,) * 64], "r")) == 1
    wide = make_embedder(tiny_bert(tmp_path / "w.gguf", None).path, Pooling.MEAN)
    with pytest.raises(PromptTooLong, match=r"at most 256 fit; .*the model was trained for no more"):
        await wide.embed([(5,) * (CONTEXT + 1)], "r")
    with pytest.raises(InvalidRequest, match="outside the vocabulary"):
        await wide.embed([(5, 10_000)], "r")
    with pytest.raises(InvalidRequest, match="no tokens"):
        await wide.embed([()], "r")
    with pytest.raises(WrongTask, match="gives embeddings"):
        await wide.score("a", ["b"], "r")


@pytest.mark.parametrize("sequences", [1, 3, 10, 31])
@pytest.mark.parametrize("pooling", [Pooling.MEAN, Pooling.LAST])
async def test_any_number_of_sequences(
    make_embedder: MakeEmbedder, tmp_path: Path, sequences: int, pooling: Pooling
) -> None:
    for make in (tiny_bert, tiny_llama):
        path = make(tmp_path / "m.gguf", None).path
        embedder = make_embedder(path, pooling, max_sequences=sequences, max_batch_tokens=100)
        assert len(await embedder.embed([(5, 6)] * 40, "r")) == 40


async def test_a_large_call_does_not_fill_the_queue(make_embedder: MakeEmbedder, tmp_path: Path) -> None:
    path = tiny_bert(tmp_path / "b.gguf", None).path
    embedder = make_embedder(path, Pooling.MEAN, group=4, max_sequences=2, max_queue=4)
    assert len(await embedder.embed([(2, 5, 3)] * 50, "r")) == 50
    calls = [embedder.embed([(2, 5, 3)] * 8, "r") for _ in range(3)]
    refused = [r for r in await asyncio.gather(*calls, return_exceptions=True) if isinstance(r, Exception)]
    assert [type(error) for error in refused] == [QueueFull, QueueFull]
    assert len(await embedder.embed([(2, 5, 3)] * 50, "r")) == 50


async def test_the_demo_model_with_another_pooling(make_embedder: MakeEmbedder, model_path: Path) -> None:
    texts = ["A cat sits on the mat.", "Rome is the capital of Italy."]
    _, found = await vectors(make_embedder(model_path, Pooling.MEAN), texts)
    reference = llama_cpp.Llama(
        str(model_path),
        embedding=True,
        pooling_type=llama_cpp.LLAMA_POOLING_TYPE_MEAN,
        n_ctx=512,
        verbose=False,
    )
    for text, vector in zip(texts, found, strict=True):
        expected = unit(np.array(reference.create_embedding(text)["data"][0]["embedding"], np.float32))
        assert vector @ expected > 0.999
