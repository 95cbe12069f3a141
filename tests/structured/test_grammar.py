"""Grammars as text: what is refused before it is compiled, and what must be tried in another process."""

from __future__ import annotations

from typing import Any

import pytest

from predictor.errors import InvalidRequest
from predictor.structured.grammar import MAX_CHARACTERS, gbnf_grammar, is_costly, json_schema_grammar


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ([], "must be a JSON object"),
        (True, "must be a JSON object"),
        (nested(65), "deeper than 64"),
        ({"enum": ["x" * MAX_CHARACTERS]}, "longer than"),
    ],
)
def test_schemas_out_of_bounds(schema: Any, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message) as caught:
        json_schema_grammar(schema, "response_format", strict=True)
    assert caught.value.param == "response_format"


def test_depth_within_bounds() -> None:
    assert "%json" in json_schema_grammar(nested(63), "response_format", strict=True).text


def test_a_requests_own_options_for_the_library_have_no_effect() -> None:
    schema = {"type": "object", "x-guidance": {"whitespace_pattern": "(a|b)*", "lenient": True}}
    text = json_schema_grammar(schema, "response_format", strict=True).text
    assert "(a|b)*" not in text
    assert '"lenient": false' in text


@pytest.mark.parametrize(
    ("schema", "costly"),
    [
        ({"type": "object", "properties": {"a": {"type": "string"}}}, False),
        ({"type": "object", "properties": {"a": {"type": "string", "pattern": "^a$"}}}, True),
        ({"anyOf": [{"allOf": [{"type": "string"}]}]}, True),
        ({"$defs": {"a": {"multipleOf": 3}}}, True),
        ({"anyOf": [{"$ref": "#/$defs/a"}] * 51}, True),
        ({"anyOf": [{"$ref": "#/$defs/a"}] * 50}, False),
        ({"enum": ["x" * 20_000]}, True),
        ({"anyOf": [{"type": "string"}, {"type": "null"}], "default": None, "title": "A"}, False),
        ({"anyOf": [{"type": "string"}], "oneOf": [{"type": "string"}]}, True),
        ({"anyOf": [{"required": ["a"]}], "properties": {"a": {"type": "string"}}}, True),
        ({"oneOf": [{"type": "integer"}] * 51}, True),
        ({"type": "integer", "minimum": 0, "maximum": 99}, False),
        ({"type": "integer", "minimum": -(2**63), "maximum": -(2**63)}, True),
        ({"type": "object", "properties": {"pattern": {"type": "string", "maxLength": 9}}}, False),
        ({"type": "array", "items": {"type": "number", "someNewKeyword": 1}}, True),
        ({"anyOf": [None, 3, {"type": "string"}]}, False),
    ],
)
def test_which_schemas_are_tried_first(schema: Any, costly: bool) -> None:
    assert is_costly(schema) is costly


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "No 'root' rule"),
        ("hello", "Expected ::="),
        ('foo ::= "a"', "No 'root' rule"),
        ("root ::= foo", "Rule 'foo' not found"),
        ('root ::= "a', "Unexpected end"),
        ('root ::= "\\', "cut off|string index"),
        ("root ::= <|im_start|>", "Expected name"),
        ('%llguidance {}\nstart: "a"', "Expected name"),
        ("root ::= " + "(" * 5000 + '"a"' + ")" * 5000, "nested too deeply"),
        ('root ::= "a"\n' + "".join(f'r{i} ::= "b"\n' for i in range(500)), "more than 500 rules"),
        ('root ::= "' + "a" * MAX_CHARACTERS + '"', "longer than"),
    ],
)
def test_what_is_no_gbnf_is_refused(text: str, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason) as caught:
        gbnf_grammar(text, "grammar")
    assert caught.value.param == "grammar"


def test_unicode_escapes_of_gbnf_keep_their_meaning() -> None:
    text = gbnf_grammar('root ::= "\\u00e9\\u0022\\U0001F600" [\\u4e00-\\u9fff] "\\n\\\\u"', "grammar").text
    assert '"\u00e9\\x22\U0001f600"' in text
    assert "[\u4e00-\u9fff]" in text
    assert '"\\n\\\\u"' in text
