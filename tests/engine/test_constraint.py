"""The engine's hook for constraints, with small ones made by hand, on the real model."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from predictor.engine.engine import Engine
from predictor.engine.request import FinishReason, Request, SamplingParams
from predictor.errors import EngineFailure, InvalidRequest
from predictor.generation.text import Completion, collect

MakeEngine = Callable[..., Engine]


class Spell:
    """Allows the given tokens in their order, and then no more."""

    def __init__(self, tokens: list[int]) -> None:
        self.left = list(tokens)
        self.seen: list[int] = []

    @property
    def must_end(self) -> bool:
        return not self.left

    def mask(self, logits: npt.NDArray[np.float32]) -> None:
        kept = logits[self.left[0]]
        logits[:] = -np.inf
        logits[self.left[0]] = kept

    def accept(self, token: int) -> None:
        self.seen.append(token)
        assert token == self.left.pop(0)


class OnlyEnd(Spell):
    """Allows nothing but the given end token."""

    must_end = False  # type: ignore[assignment]


class Fails(Spell):
    """Allows everything, until it raises."""

    def __init__(self, error: Exception, where: str) -> None:
        super().__init__([0])
        self.error, self.where, self.calls = error, where, 0

    def mask(self, logits: npt.NDArray[np.float32]) -> None:
        self._count("mask")

    def accept(self, token: int) -> None:
        self._count("accept")

    def _count(self, where: str) -> None:
        self.calls += 1
        if self.calls > 4 and where == self.where:
            raise self.error


def prompt(engine: Engine, text: str = "1, 2, 3, 4, 5, 6, 7, 8,") -> tuple[int, ...]:
    return tuple(engine.tokenize(text, add_special=True, parse_special=False))


async def complete(engine: Engine, *requests: Request) -> list[Completion]:
    streams = engine.submit_all(requests)
    return list(await asyncio.gather(*(collect(stream, 1) for stream in streams)))


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0},
        {"temperature": 0, "repeat_penalty": 1.3},
        {"temperature": 0, "logit_bias": {5: 100.0}},
        {"temperature": 1.5, "top_k": 0, "top_p": 1, "min_p": 0},
        {"temperature": 1.0, "typical_p": 0.5},
        {"temperature": 1.0, "presence_penalty": 1, "frequency_penalty": -1, "logit_bias": {5: 1e6}},
    ],
)
async def test_every_sampler_obeys_the_mask(engine: Engine, options: dict[str, object]) -> None:
    tokens = engine.tokenize(" purple elephants dance", add_special=False, parse_special=False)
    spell = Spell(tokens)
    params = SamplingParams(max_tokens=50, **options)  # type: ignore[arg-type]
    [answer] = await complete(engine, Request("test", prompt(engine), params, spell))
    assert answer.text == " purple elephants dance"
    assert answer.finish_reason is FinishReason.STOP
    assert answer.completion_tokens == len(tokens)
    assert spell.seen == tokens


async def test_logprobs_are_the_models_own(engine: Engine) -> None:
    [token] = engine.tokenize(" banana", add_special=False, parse_special=False)[:1]
    params = SamplingParams(max_tokens=1, temperature=0, top_logprobs=3)
    free, held = [
        (await complete(engine, Request("test", prompt(engine), params, constraint)))[0].logprobs[0]
        for constraint in (None, Spell([token]))
    ]
    assert [(top.token, pytest.approx(top.logprob)) for top in held.top] == [
        (top.token, top.logprob) for top in free.top
    ]
    assert held.token == token != free.token
    assert held.logprob < min(top.logprob for top in free.top)


async def test_a_limit_that_comes_first_ends_it_with_length(engine: Engine) -> None:
    tokens = engine.tokenize(" purple elephants dance", add_special=False, parse_special=False)
    params = SamplingParams(max_tokens=len(tokens) - 1)
    [answer] = await complete(engine, Request("test", prompt(engine), params, Spell(tokens)))
    assert answer.finish_reason is FinishReason.LENGTH
    at_limit = SamplingParams(max_tokens=len(tokens))
    [answer] = await complete(engine, Request("test", prompt(engine), at_limit, Spell(tokens)))
    assert answer.finish_reason is FinishReason.STOP


@pytest.mark.parametrize("temperature", [0, 1])
async def test_the_constraint_decides_the_end_even_with_ignore_eos(
    engine: Engine, temperature: float
) -> None:
    params = SamplingParams(max_tokens=20, ignore_eos=True, temperature=temperature)
    [end] = engine.model.end_tokens[:1]
    [answer] = await complete(engine, Request("test", prompt(engine), params, OnlyEnd([end])))
    assert (answer.text, answer.completion_tokens) == ("", 0)
    assert answer.finish_reason is FinishReason.STOP


@pytest.mark.parametrize("where", ["mask", "accept"])
@pytest.mark.parametrize(
    ("error", "expected", "message"),
    [
        (InvalidRequest("too much", param="response_format"), InvalidRequest, "too much"),
        (RuntimeError("broken"), EngineFailure, "the constraint on this answer failed: broken"),
    ],
)
async def test_an_error_ends_that_sequence_and_no_other(
    engine: Engine, where: str, error: Exception, expected: type[Exception], message: str
) -> None:
    params = SamplingParams(max_tokens=12, temperature=0)
    alone = (await complete(engine, Request("test", prompt(engine), params)))[0].text
    failing = Request("test", prompt(engine, "Once upon a time"), params, Fails(error, where))
    streams = engine.submit_all([failing, Request("test", prompt(engine), params)])
    with pytest.raises(expected, match=message):
        await collect(streams[0], 1)
    assert (await collect(streams[1], 1)).text == alone
    assert engine.stats().running == 0


async def test_cancelling_lets_go_of_the_constraint(engine: Engine) -> None:
    spell = Spell([engine.tokenize(" a", add_special=False, parse_special=False)[0]] * 3000)
    gone = weakref.ref(spell)
    [stream] = engine.submit_all([Request("test", prompt(engine), SamplingParams(), spell)])
    del spell
    async for _ in stream:
        break
    stream.cancel()
    assert [delta async for delta in stream][-1].finish_reason is FinishReason.CANCELLED
    assert engine.stats().running == 0
    del stream
    await asyncio.sleep(0.05)
    gc.collect()
    assert gone() is None


async def test_a_constraint_survives_preemption(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from predictor.engine import sequence

    monkeypatch.setattr(sequence, "EXPECTED_OUTPUT_TOKENS", 16)
    engine = make_engine(context_tokens=256, max_sequences=4)
    words = engine.tokenize(" one two three four five" * 24, add_special=False, parse_special=False)
    spells = [Spell(words) for _ in range(3)]
    params = SamplingParams(temperature=0)
    answers = await complete(
        engine, *(Request("test", prompt(engine, f"Story {i}:"), params, s) for i, s in enumerate(spells))
    )
    assert engine.stats().preemptions > 0
    assert [answer.text for answer in answers] == [" one two three four five" * 24] * 3
