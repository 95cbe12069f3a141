"""Compiled constraints on the real vocabulary, driven by random choices instead of a model."""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from predictor.chat.form import AnswerForm
from predictor.chat.grammar import GrammarWriter, Lazily
from predictor.chat.known_forms import HERMES
from predictor.chat.tools import read_tools
from predictor.engine.constraint import TokenConstraint
from predictor.engine.llama import Model
from predictor.errors import InvalidRequest
from predictor.structured import constraint as constraint_module
from predictor.structured.checker import GrammarChecker
from predictor.structured.compiler import ConstraintCompiler
from predictor.structured.grammar import Grammar, gbnf_grammar, json_schema_grammar

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 5}, "age": {"type": "integer", "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def model(model_path: Path) -> Iterator[Model]:
    with Model(model_path) as model:
        yield model


@pytest.fixture(scope="module")
def compiler(model: Model) -> ConstraintCompiler:
    return ConstraintCompiler(model.vocabulary)


def schema_grammar(schema: Any) -> Grammar:
    return json_schema_grammar(schema, "response_format", strict=True)


def walk(model: Model, constraint: TokenConstraint, seed: int, steps: int = 300) -> str | None:
    """Text of randomly chosen allowed tokens, None when it didn't end."""
    choices, text = random.Random(seed), b""
    for _ in range(steps):
        logits = np.zeros(model.n_vocab, np.float32)
        constraint.mask(logits)
        token = int(choices.choice(np.flatnonzero(np.isfinite(logits))))
        if model.is_end(token):
            return text.decode()
        constraint.accept(token)
        text += model.piece(token)
        if constraint.must_end:
            return text.decode()
    return None


def spell(model: Model, constraint: TokenConstraint, text: str) -> None:
    """Feed a text, checking that every token of it is allowed."""
    for token in model.tokenize(text, add_special=False, parse_special=False):
        logits = np.zeros(model.n_vocab, np.float32)
        constraint.mask(logits)
        assert np.isfinite(logits[token]), model.piece(token)
        constraint.accept(token)


async def test_whatever_is_chosen_the_answer_fits_the_schema(
    model: Model, compiler: ConstraintCompiler
) -> None:
    make = await compiler.whole(schema_grammar(PERSON))
    ended = 0
    for seed in range(20):
        text = walk(model, make(), seed)
        if text is not None:
            jsonschema.validate(json.loads(text), PERSON)
            ended += 1
    assert ended > 10


async def test_constraints_of_one_grammar_are_independent(model: Model, compiler: ConstraintCompiler) -> None:
    make = await compiler.whole(schema_grammar(PERSON))
    first, second = make(), make()
    spell(model, first, '{"name":"Al","age":3')
    spell(model, second, '{"name":"Bo","age":44}')
    assert second.must_end
    assert not first.must_end
    spell(model, first, "}")
    assert first.must_end


async def test_control_tokens_and_an_early_end_are_forbidden(
    model: Model, compiler: ConstraintCompiler
) -> None:
    constraint = (await compiler.whole(schema_grammar({"type": "string"})))()
    spell(model, constraint, '"a')
    logits = np.zeros(model.n_vocab, np.float32)
    constraint.mask(logits)
    assert np.isfinite(logits).sum() > 10_000
    assert not np.isfinite(logits[list(model.vocabulary().control)]).any()


async def test_a_gbnf_grammar(model: Model, compiler: ConstraintCompiler) -> None:
    text = 'root ::= move (" " move){1,3}\nmove ::= [a-h] [1-8] "x"? | "O-O"\n'
    make = await compiler.whole(gbnf_grammar(text, "grammar"))
    for seed in range(10):
        answer = walk(model, make(), seed)
        assert answer is not None
        assert re.fullmatch(r"([a-h][1-8]x?|O-O)( ([a-h][1-8]x?|O-O)){1,3}", answer)


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "nosuch"}, "Invalid type: nosuch"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"type": "string", "format": "nosuch"}, "nosuch"),
        ({"type": "string", "pattern": "(?=a)b"}, "regex"),
        ({"type": "string", "pattern": "((("}, "regex"),
        ({"$ref": "#/$defs/missing"}, "missing"),
        ({"$ref": "https://example.com/schema.json"}, "does not fetch"),
        ({"$ref": "file:///etc/passwd"}, "does not fetch"),
        ({"type": "object", "properties": {"a": False}, "required": ["a"]}, "unsatisfiable"),
        ({"enum": ["\ud800"]}, "can't be used"),
        ({"$ref": "#"}, "no text that fits"),
    ],
)
async def test_schemas_that_cannot_be_used(compiler: ConstraintCompiler, schema: Any, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason) as caught:
        await compiler.whole(schema_grammar(schema))
    assert caught.value.param == "response_format"
    assert "\n" not in caught.value.message


HOSTILE = {
    "the lowest integer": {"type": "integer", "minimum": -(2**63), "maximum": -(2**63)},
    "minutes": {"type": "integer", "multipleOf": 9999991},
    "stack": {
        "$defs": {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(5000)}
        | {"d5000": {"type": "string"}},
        "$ref": "#/$defs/d0",
    },
    "intersections": {"allOf": [{"type": "string", "pattern": f"a.{{{i}}}b"} for i in range(1, 60)]},
    "products": {
        "allOf": [
            {"anyOf": [{"properties": {f"p{i}_{j}": {"type": "integer"}}} for j in range(8)]}
            for i in range(8)
        ]
    },
    "alternatives": {"type": "string", "pattern": "|".join("x" * i + "[a-z]{50}" for i in range(600))},
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_schema_is_refused_or_harmless(
    model: Model, compiler: ConstraintCompiler, name: str
) -> None:
    """The event loop goes on meanwhile, and the process outlives what overflows a stack."""
    ticks, longest = 0, 0.0

    async def tick() -> None:
        nonlocal ticks, longest
        while True:
            started = time.perf_counter()
            await asyncio.sleep(0.01)
            ticks += 1
            longest = max(longest, time.perf_counter() - started)

    ticking = asyncio.create_task(tick())
    began, started = time.perf_counter(), time.process_time()
    refused = False
    try:
        walk(model, (await compiler.whole(schema_grammar(HOSTILE[name])))(), 1, steps=20)
    except InvalidRequest:
        refused = True
    finally:
        ticking.cancel()
    assert refused is (name != "alternatives")
    assert ticks > 0 or time.perf_counter() - began < 0.2  # Some end the process at once.
    assert time.process_time() - started < 5
    assert longest < 2


async def test_a_grammar_that_was_tried_is_not_tried_again(
    compiler: ConstraintCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    grammar = schema_grammar({"type": "integer", "multipleOf": 7})
    await compiler.whole(grammar)
    monkeypatch.setattr(GrammarChecker, "_ask", lambda self, text: "tried again")
    await compiler.whole(grammar)
    with pytest.raises(InvalidRequest, match="tried again"):
        await compiler.whole(schema_grammar({"type": "integer", "multipleOf": 11}))


async def test_a_grammar_that_takes_too_long_at_each_token_ends(
    model: Model, compiler: ConstraintCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constraint_module, "FREE_SECONDS", 0.2)
    make = await compiler.whole(schema_grammar({"enum": ["x" * 100_000]}))
    with pytest.raises(InvalidRequest, match="too long for each token"):
        walk(model, make(), 1)


TOOLS = read_tools(
    [
        {"type": "function", "function": {"name": "greet", "parameters": PERSON}},
        {
            "type": "function",
            "function": {
                "name": "add",
                "strict": True,
                "parameters": {
                    "type": "object",
                    "properties": {"a": {"$ref": "#/$defs/digit"}},
                    "required": ["a"],
                    "additionalProperties": False,
                    "$defs": {"digit": {"type": "integer", "minimum": 0, "maximum": 9}},
                },
            },
        },
    ]
)


def hermes() -> GrammarWriter:
    return GrammarWriter(AnswerForm(calls=HERMES), TOOLS, {})


def lazily() -> Lazily:
    """One call behind its mark."""
    found = hermes().lazily(parallel=False)
    assert found is not None
    return found


async def test_calls_fit_the_schema_of_their_function(model: Model, compiler: ConstraintCompiler) -> None:
    make = await compiler.whole(hermes().calls(parallel=False, in_thought=False, may_think=False))
    names = set()
    for seed in range(20):
        text = walk(model, make(), seed)
        if text is None:
            continue
        found = re.fullmatch(r"<tool_call>\n(.*)\n</tool_call>", text, re.DOTALL)
        assert found
        call = json.loads(found[1])
        names.add(call["name"])
        tool = next(tool for tool in TOOLS if tool.name == call["name"])
        jsonschema.validate(call["arguments"], dict(tool.parameters))
    assert names == {"greet", "add"}


async def test_text_is_free_until_the_marker_and_held_after_it(
    model: Model, compiler: ConstraintCompiler
) -> None:
    one = lazily()
    constraint = (await compiler.after(one.trigger, one.grammar, once=False))()
    for _ in range(2):
        spell(model, constraint, 'Anything <tool_cal {"name": <|im_start|> ')
        logits = np.zeros(model.n_vocab, np.float32)
        constraint.mask(logits)
        assert np.isfinite(logits).all()
        spell(model, constraint, one.trigger)
        constraint.mask(logits)
        assert not np.isfinite(logits).all()
        spell(model, constraint, '\n{"name": "add", "arguments": {"a": 7}}\n</tool_call>')
        assert not constraint.must_end
    once = (await compiler.after(one.trigger, one.grammar, once=True))()
    spell(model, once, 'So: <tool_call>\n{"name": "add", "arguments": {"a": 7}}\n</tool_call>')
    assert once.must_end


@pytest.mark.parametrize("fits", [True, False])
async def test_a_token_that_goes_beyond_the_marker(
    model: Model, compiler: ConstraintCompiler, fits: bool
) -> None:
    """What it holds of the grammar counts, and where that doesn't fit the text stays free."""
    grammar = gbnf_grammar(f'root ::= "{"s" if fits else "x"}!"', "grammar")
    constraint = (await compiler.after("<tool", grammar, once=True))()
    spell(model, constraint, "<")
    constraint.accept(model.vocabulary().pieces.index(b"tools"))
    logits = np.zeros(model.n_vocab, np.float32)
    constraint.mask(logits)
    allowed = [model.piece(int(token)) for token in np.flatnonzero(np.isfinite(logits))]
    assert allowed == [b"!"] if fits else len(allowed) == model.n_vocab
