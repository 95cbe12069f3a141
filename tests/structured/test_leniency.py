"""Keywords that can't be enforced are passed over, and named, unless a schema is strict."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from predictor.engine.llama import Model
from predictor.errors import InvalidRequest
from predictor.structured.checker import GrammarChecker
from predictor.structured.compiler import ConstraintCompiler
from predictor.structured.grammar import Grammar, inline_schema, json_schema_grammar

ZOD_EMAIL = (
    r"^(?!\.)(?!.*\.\.)([A-Za-z0-9_'+\-\.]*)[A-Za-z0-9_+-]@([A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$"
)
PYDANTIC_DECIMAL = r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$"

# Schema, and the places that can't be enforced in it; None where which of some is llguidance's affair.
UNENFORCEABLE: dict[str, tuple[dict[str, Any], list[str] | None]] = {
    "Zod's email": ({"type": "string", "pattern": ZOD_EMAIL, "format": "email"}, ["#/pattern"]),
    "pydantic's Decimal": ({"type": "string", "pattern": PYDANTIC_DECIMAL}, ["#/pattern"]),
    "a word's border": ({"type": "string", "pattern": r"\bfoo\b", "maxLength": 9}, ["#/pattern"]),
    "no regular expression": ({"type": "string", "pattern": "((("}, ["#/pattern"]),
    "int64": ({"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}, ["#/minimum"]),
    "float32": ({"type": "number", "minimum": -3.4028235e38, "maximum": 3.4028235e38}, None),
    "double": ({"type": "number", "maximum": 1.7976931348623157e308, "minimum": 0}, ["#/maximum"]),
    "the longest text": ({"type": "string", "minLength": 1, "maxLength": 2**53 - 1}, ["#/maxLength"]),
    "names": ({"type": "object", "patternProperties": {"^(?!x)": {"type": "string"}}}, None),
    "not implemented": ({"type": "array", "items": {"enum": [1]}, "uniqueItems": True}, ["#/uniqueItems"]),
    "unknown format": ({"type": "string", "format": "nosuch"}, ["#/format"]),
    "inside": (
        {
            "type": "object",
            "properties": {
                "pattern": {"type": "string", "enum": ["(?=a)"]},
                "a/b": {"anyOf": [{"type": "null"}, {"type": "string", "pattern": "(?=a)b"}]},
                "size": {"type": "integer", "minimum": 0, "maximum": 9},
            },
            "required": ["size"],
            "additionalProperties": False,
        },
        ["#/properties/a~1b/anyOf/1/pattern"],
    ),
}


@pytest.fixture(scope="module")
def model(model_path: Path) -> Iterator[Model]:
    with Model(model_path) as model:
        yield model


@pytest.fixture(scope="module")
def compiler(model: Model) -> ConstraintCompiler:
    return ConstraintCompiler(model.vocabulary)


@pytest.mark.parametrize("name", UNENFORCEABLE)
async def test_it_is_passed_over_and_named_unless_strict(compiler: ConstraintCompiler, name: str) -> None:
    schema, places = UNENFORCEABLE[name]
    before = json.dumps(schema)
    make = await compiler.whole(json_schema_grammar(schema, "response_format", strict=False))
    assert make.not_enforced
    if places is not None:
        assert list(make.not_enforced) == [f"response_format{place}" for place in places]
    assert json.dumps(schema) == before
    with pytest.raises(InvalidRequest) as caught:
        await compiler.whole(json_schema_grammar(schema, "response_format", strict=True))
    assert caught.value.param == "response_format"


async def test_the_rest_of_the_schema_is_enforced(model: Model, compiler: ConstraintCompiler) -> None:
    schema, _ = UNENFORCEABLE["inside"]
    make = await compiler.whole(json_schema_grammar(schema, "response_format", strict=False))
    for text, fits in (('{"size":5}', True), ('{"a/b":"x","size":5}', True), ('{"size":77}', False)):
        constraint = make()
        tokens = model.tokenize(text, add_special=False, parse_special=False)
        try:
            for token in tokens:
                constraint.accept(token)
            accepted = True
        except InvalidRequest:
            accepted = False
        assert accepted is fits, text


async def test_of_several_schemas_only_the_lenient_lose_keywords(compiler: ConstraintCompiler) -> None:
    """As with tools, of which one bad one must not fail the request."""
    email = {"type": "object", "properties": {"to": {"type": "string", "pattern": ZOD_EMAIL}}}
    plain = {"type": "object", "properties": {"a": {"type": "string"}}}

    def grammar(*, strict: bool) -> Grammar:
        rules = [inline_schema(plain, "tools", strict=True), inline_schema(email, "tools", strict=strict)]
        return Grammar("start: a | b\na: {}\nb: {}".format(*rules), "tools", is_costly=True)

    make = await compiler.whole(grammar(strict=False))
    assert make.not_enforced == ("tools[1]/properties/to/pattern",)
    with pytest.raises(InvalidRequest, match=r"look-ahead.*\[1\]/properties/to/pattern"):
        await compiler.whole(grammar(strict=True))


async def test_a_schema_is_cleaned_for_other_notations_than_json(compiler: ConstraintCompiler) -> None:
    schema, _ = UNENFORCEABLE["inside"]
    cleaned, left = await compiler.enforceable(schema, "tools", strict=False)
    assert left == ("/properties/a~1b/anyOf/1/pattern",)
    assert cleaned["properties"]["a/b"] == {"anyOf": [{"type": "null"}, {"type": "string"}]}
    assert cleaned["properties"]["size"] == schema["properties"]["size"]
    plain = {"type": "object", "properties": {"a": {"type": "string"}}}
    assert await compiler.enforceable(plain, "tools", strict=True) == (plain, ())
    with pytest.raises(InvalidRequest, match="look-ahead") as caught:
        await compiler.enforceable(schema, "tools", strict=True)
    assert caught.value.param == "tools"


def test_places_are_named_where_they_stand_in_the_request() -> None:
    grammar = Grammar("start: a", "tools", origins=("response_format#", "tools[2]/properties/a"))
    assert grammar.named("[0]/minimum") == "response_format#/minimum"
    assert grammar.named("[1]/items/pattern") == "tools[2]/properties/a/items/pattern"
    assert grammar.named("[1]/$defs/b/pattern") == "tools[2]/$defs/b/pattern"
    assert grammar.named("[7]/minimum") == "tools[7]/minimum"
    assert Grammar("start: a", "json_schema").named("/minimum") == "json_schema#/minimum"


PATTERNS = st.text(alphabet="ab(?=!<)[]{}|\\bdwpL+*^$.-1,", min_size=1, max_size=12)
# Both bounds at the lowest 64-bit integer end the process that tries them: test_compiler.py has that.
BOUNDS = st.integers(1 - 2**63, 2**70) | st.floats(-9e18, allow_nan=False, allow_infinity=False)
SIZES = st.integers(0, 2**64)
LEAVES = st.fixed_dictionaries(
    {"type": st.just("string")},
    optional={"pattern": PATTERNS, "minLength": st.integers(0, 3), "maxLength": SIZES, "format": PATTERNS},
) | st.fixed_dictionaries(
    {"type": st.sampled_from(["integer", "number"])}, optional={"minimum": BOUNDS, "maximum": BOUNDS}
)
SCHEMAS = st.recursive(
    LEAVES,
    lambda inner: (
        st.fixed_dictionaries(
            {
                "type": st.just("object"),
                "properties": st.dictionaries(st.sampled_from("ab/~"), inner, max_size=2),
            }
        )
        | st.fixed_dictionaries({"type": st.just("array"), "items": inner}, optional={"maxItems": SIZES})
    ),
    max_leaves=3,
)


CHECKER = GrammarChecker()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(schema=SCHEMAS)
def test_no_keyword_of_this_kind_fails_a_schema_that_is_not_strict(schema: dict[str, Any]) -> None:
    grammar = json_schema_grammar(schema, "response_format", strict=False).text
    verdict = asyncio.run(CHECKER.verdict(grammar))
    assert not verdict.problem or "Unsatisfiable" in verdict.problem
    for place in verdict.not_enforced:
        node: Any = schema
        for part in place[1:].split("/"):
            key = part.replace("~1", "/").replace("~0", "~")
            node = node[int(key)] if isinstance(node, list) else node[key]
