"""Engines of random options under random requests, every token of which is computed again by itself.

What an engine said of a token, its log-probability, holds only where the token's cells before it are its own
sequence's and right. So that is compared with a context that sees this sequence alone. And when all is done,
llama.cpp's cells must be those that the books say.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import llama_cpp.llama_cpp as lib
import numpy as np

from predictor.engine.config import AdapterConfig, EngineConfig
from predictor.engine.draft_model import DraftModel
from predictor.engine.engine import Engine
from predictor.engine.kv_cache import KVCache
from predictor.engine.llama import Adapter, Batch, Context, ContextParams, Model
from predictor.engine.past import Past
from predictor.engine.prefix_cache import PrefixCache
from predictor.engine.prefix_store import PrefixStore
from predictor.engine.request import Request, SamplingParams
from predictor.engine.slot_cache import SlotCache
from predictor.engine.speculation import Speculator
from predictor.engine.stream import TokenStream
from tests.adapter_files import write_adapter
from tests.family_models import write_family
from tests.tiny_models import tiny_llama

# Between a token computed in a batch with others, from copied or saved cells, and alone: rounding makes up to
# 0.06 here (the cells are 16-bit numbers), a wrong cell mostly more than 1.
TOLERANCE = 0.25
TOKENS = range(3, 286)
LONGEST = 640


@dataclass
class Asked:
    """A request, and what came of it.

    Attributes:
        tokens, logprobs: of its answer, as far as it went.
        prompt_logprobs: of its prompt's tokens from the second on, where they were asked for.
    """

    request: Request
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    prompt_logprobs: list[float] = field(default_factory=list)
    cancelled: bool = False


class World:
    """A model, its adapters, and a context that sees one sequence at a time.

    Args:
        folder: for the files.
        family: of the model, which then has no adapters; None for one with full attention.
    """

    def __init__(self, folder: Path, family: str | None = None) -> None:
        self.adapters: dict[str, AdapterConfig] = {}
        if family is not None:
            self.path = write_family(folder / "tiny.gguf", family)
        else:
            self.path = tiny_llama(folder / "tiny.gguf").path
            for seed, name in enumerate(("one", "two")):
                file = write_adapter(folder / f"{name}.gguf", self.path, seed, strength=0.5)
                self.adapters[name] = AdapterConfig(file)
        self._model = Model(self.path)
        self.past = self._model.past
        self._adapters: dict[str | None, Adapter | None] = {None: None}
        for name, adapter in self.adapters.items():
            self._adapters[name] = Adapter(self._model, adapter.path, adapter.scale)
        self._batch = Batch(LONGEST)
        params = ContextParams(
            context_tokens=LONGEST,
            batch_tokens=LONGEST,
            sequences=1,
            threads=1,
            batch_threads=1,
            outputs=LONGEST,
            rollback=8,
        )
        self._context = Context(self._model, params)
        self.takes_back = self._context.takes_back(8)

    def logprobs(self, asked: Asked) -> list[float]:
        """Of all tokens of a prompt and its answer but the first, computed with nothing else anywhere."""
        prompt = list(asked.request.prompt)
        tokens = prompt + asked.tokens
        self._context.clear()
        self._context.use_adapter(self._adapters[asked.request.adapter])
        self._batch.clear()
        for position, token in enumerate(tokens):
            self._batch.add([token], position, 0, logits=True)
        self._context.decode(self._batch)
        found = []
        for index, token in enumerate(tokens[1:]):
            logits = self._context.logits(index).astype(np.float64)
            highest = logits.max()
            found.append(float(logits[token] - highest - math.log(np.exp(logits - highest).sum())))
        return found

    def close(self) -> None:
        self._context.close()
        self._model.close()


async def live(world: World, folder: Path, seed: int) -> Counter[str]:
    """Two lives of one random engine, which share a prefix folder, and all that must hold of them.

    Returns:
        How often which thing happened.
    """
    chance = random.Random(seed)
    crowded = chance.random() < 0.4
    options = _options(world, chance, crowded=crowded)
    stems = [_tokens(chance, chance.randint(20, 200)) for _ in range(3)]
    seen: Counter[str] = Counter(engines=1)
    with _guessing(chance.random() < 0.7), _crowding(crowded):
        for _ in range(2):
            store = PrefixStore(folder, "tiny", 2**24, {name: name for name in world.adapters})
            used = store if chance.random() < 0.7 else None
            engine = Engine(EngineConfig(**options, prefix_store=used))
            with closing(engine):
                asked = await _serve(engine, chance, stems)
                _check_cells(engine)
                seen += _figures(engine)
            for one in asked:
                seen["answers"] += 1
                seen["cancelled"] += one.cancelled
                seen["tokens"] += len(one.tokens)
                seen["scored"] += len(one.prompt_logprobs)
                _check_answer(world, one, f"seed {seed}, {options}")
    return seen


def _options(world: World, chance: random.Random, *, crowded: bool) -> dict[str, Any]:
    sequences = 5 if crowded else chance.randint(1, 5)
    options: dict[str, Any] = {
        "model_path": world.path,
        "threads": 1,
        "batch_threads": 1,
        "max_sequences": sequences,
        "max_batch_tokens": chance.choice([sequences, 16, 64, 512]) + sequences,
        "host_cache_bytes": chance.choice([0, 2**17, 2**24]),
        "adapters": world.adapters if chance.random() < 0.5 else {},
        "full_window": chance.random() < 0.3,
    }
    if crowded:
        options["context_tokens"] = LONGEST
    elif chance.random() < 0.6:
        options["max_sequence_tokens"] = LONGEST
    else:
        options["context_tokens"] = chance.choice([LONGEST, 1024, 4096])
    match chance.randint(0, 2):
        case 1 if world.takes_back and (options["max_batch_tokens"] > 9 or not world.past.has_state):
            options["draft_ngrams"] = True
        case 2 if world.past is Past.ALL:
            options |= {"draft_model": world.path, "draft_tokens": chance.randint(1, 6)}
    return options


@contextmanager
def _guessing(always: bool) -> Iterator[None]:
    """Whatever it costs, where a tiny model would never be worth guessing for."""
    if not always:
        yield
        return
    with (
        mock.patch.object(Speculator, "_count", lambda self, *_: self._max_draft_tokens),
        mock.patch.object(Speculator, "_gain", return_value=math.inf),
    ):
        yield


@contextmanager
def _crowding(crowded: bool) -> Iterator[None]:
    """Admit more than fit, so that some have to give their place up."""
    if not crowded:
        yield
        return
    with mock.patch("predictor.engine.sequence.EXPECTED_OUTPUT_TOKENS", 4):
        yield


def _tokens(chance: random.Random, count: int) -> tuple[int, ...]:
    return tuple(chance.choices(TOKENS, k=count))


def _request(
    engine: Engine, chance: random.Random, stems: list[tuple[int, ...]], before: list[Asked]
) -> Request:
    """Of a beginning that others have too, whole or in part, or the next turn of a chat."""
    stem = chance.choice([(), *stems])
    if before and chance.random() < 0.5:
        turn = chance.choice(before)
        stem = (*turn.request.prompt, *turn.tokens)[: LONGEST - 370]
    end = len(stem) if chance.random() < 0.5 else chance.randint(0, len(stem))
    prompt = stem[:end] + _tokens(chance, chance.randint(1, 60))
    params = SamplingParams(
        max_tokens=chance.choice([1, 3, 20, 60, 300, 300]),
        temperature=chance.choice([0.0, 1.0]),
        seed=chance.randint(0, 9),
        ignore_eos=True,
        top_logprobs=0,
    )
    adapter = chance.choice([None, *engine.config.adapters])
    return Request("r", prompt, params, adapter=adapter, scores_prompt=chance.random() < 0.2)


async def _serve(engine: Engine, chance: random.Random, stems: list[tuple[int, ...]]) -> list[Asked]:
    """Requests in groups, of which some are cancelled and some come while others run."""
    all_asked: list[Asked] = []
    reading: list[asyncio.Task[None]] = []
    for _ in range(chance.randint(2, 5)):
        group = [Asked(_request(engine, chance, stems, all_asked)) for _ in range(chance.randint(1, 5))]
        streams = engine.submit_all([asked.request for asked in group])
        for asked, stream in zip(group, streams, strict=True):
            until = chance.choice([None, None, None, 0, 2, 10])
            reading.append(asyncio.create_task(_read(asked, stream, until)))
        all_asked += group
        if chance.random() < 0.5:
            await reading[chance.randrange(len(reading))]
        await asyncio.sleep(chance.choice([0, 0.001, 0.02]))
    async with asyncio.timeout(120):
        await asyncio.gather(*reading)
    return all_asked


async def _read(asked: Asked, stream: TokenStream, until: int | None) -> None:
    if until == 0:
        stream.cancel()
    async for delta in stream:
        asked.prompt_logprobs += [entry.logprob for entry in delta.prompt_logprobs]
        asked.tokens += [entry.token for entry in delta.logprobs]
        asked.logprobs += [entry.logprob for entry in delta.logprobs]
        if until is not None and len(asked.tokens) >= until and not asked.cancelled:
            asked.cancelled = True
            stream.cancel()


def _check_answer(world: World, asked: Asked, where: str) -> None:
    request = asked.request
    if not asked.cancelled:
        most = min(request.params.max_tokens or LONGEST, LONGEST - len(request.prompt))
        assert len(asked.tokens) >= min(most, 1), where
    alone = world.logprobs(asked)
    scored = len(request.prompt) - 1 if request.scores_prompt else 0
    if asked.tokens or not asked.cancelled:
        assert len(asked.prompt_logprobs) == scored, where
    said_of = [(i, said) for i, said in enumerate(asked.prompt_logprobs)]
    said_of += [(len(request.prompt) - 1 + i, said) for i, said in enumerate(asked.logprobs)]
    for place, said in said_of:
        true = alone[place]
        assert abs(said - true) < TOLERANCE, (
            f"{where}: token {place} of {len(alone)}, adapter {request.adapter}: {said:.4f}, alone {true:.4f}"
        )


def _check_cells(engine: Engine) -> None:
    """Everything is given back, and llama.cpp has the cells that the books say."""
    stats = engine.stats()
    assert (stats.running, stats.waiting, stats.kv_pinned) == (0, 0, 0)
    loop = engine._loop
    loop._cells.carry_out()
    _compare(loop._context, loop._scheduler.cache)
    drafter = getattr(loop._speculator, "_drafter", None)
    if isinstance(drafter, DraftModel):
        drafter._settle([])
        drafter._cells.carry_out()
        assert drafter._cache.pinned == 0
        _compare(drafter._context, drafter._cache)


def _compare(context: Context, cache: KVCache) -> None:
    held: dict[int, int] = {}
    if isinstance(cache, SlotCache):
        held = {slot.id: len(slot.tokens) for slot in cache._slots}
        ids = len(cache._slots)
    else:
        assert isinstance(cache, PrefixCache)
        for sequence_id, leaf in cache._leaves.items():
            held[sequence_id] = leaf.depth() + len(leaf.tokens)
        ids = len(held) + len(cache._free_ids)
        assert cache.used <= cache.capacity
    for sequence_id in range(ids):
        cells = lib.llama_memory_seq_pos_max(context._memory, sequence_id) + 1
        assert cells == held.get(sequence_id, 0), f"sequence {sequence_id} has {cells} cells, not {held}"


def _figures(engine: Engine) -> Counter[str]:
    stats = engine.stats()
    return Counter(
        preemptions=stats.preemptions, hits=stats.prefix_hit_tokens, accepted=stats.accepted_tokens
    )
