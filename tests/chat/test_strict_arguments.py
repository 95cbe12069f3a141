"""Schemas of tools are held in the models' own forms of arguments too, or refused where they are strict."""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import replace
from typing import Any

import jsonschema
import pytest
from grammars import random_text, refusal
from hypothesis import given, settings
from hypothesis import strategies as st
from template_corpus import NAMES
from written_answers import calls_of, chat_format, messages_of, tools_of, written

from predictor.chat import provenance
from predictor.chat.form import ChannelForm, PythonArguments, TaggedArguments
from predictor.chat.format import AnswerWish, ChatFormat
from predictor.chat.grammar import Lazily
from predictor.chat.prompting import Prompt
from predictor.chat.text_limits import FORMATS, text_limits
from predictor.chat.tools import Tool, read_tools
from predictor.errors import InvalidRequest
from predictor.structured.grammar import Grammar

NOTHING_BEFORE = Prompt(provenance.Prompt("", ()))
# One template for each way of writing arguments that isn't JSON, and some more.
FORMS = (
    "ByteDance-Seed-OSS",  # tags, Python between them
    "GLM-4.6",
    "Kimi-K3",  # tags that say the type
    "LFM2.5-8B-A1B",  # Python
    "MiniMax-M2",
    "MiniMax-M3",  # elements
    "Qwen3-Coder",
    "deepseek-ai-DeepSeek-V3.2",  # tags that say whether it is a text
    "google-gemma-4-31B-it",  # bare keys
    "muse-glimmer",  # messages to recipients
    "openbmb-MiniCPM5-1B",  # tags with CDATA
    "tencent-Hy3",
)
NODE = {
    "type": "object",
    "properties": {
        "text": {"type": "string", "minLength": 2, "maxLength": 3},
        "next": {"$ref": "#/$defs/node"},
    },
    "required": ["text"],
    "additionalProperties": False,
}
WORD = {"type": "string", "pattern": "^[a-z]+$"}
PAIR = {
    "type": "object",
    "properties": {
        "k": {"type": "string", "pattern": "^q", "maxLength": 9},
        "n": {"type": "integer", "maximum": 3},
    },
    "required": ["k"],
    "additionalProperties": False,
}
# Schema, values that it allows, and others.
CASES: dict[str, tuple[dict[str, Any], list[Any], list[Any]]] = {
    "pattern": ({"type": "string", "pattern": "^[a-z]{2,4}$"}, ["ab", "abcd"], ["a", "abcde", "AB", "ab "]),
    "pattern inside": ({"type": "string", "pattern": "[0-9]|^x"}, ["a1b", "xyz"], ["abc", "yx"]),
    "length": ({"type": "string", "minLength": 2, "maxLength": 3}, ["ab", "\u00e9\n"], ["a", "abcd", ""]),
    "format": ({"type": "string", "format": "date"}, ["2024-02-29"], ["2024-13-01", "today"]),
    "enum": ({"enum": ["a b", "c"]}, ["a b", "c"], ["a", "d"]),
    "mixed enum": ({"enum": ["a", 7, True]}, ["a", 7, True], ["b", 8, False]),
    "constants": ({"oneOf": [{"const": "x"}, {"const": "y"}]}, ["x", "y"], ["z"]),
    "integer": ({"type": "integer", "minimum": 3, "maximum": 12}, [3, 12], [2, 13, 3.5]),
    "number": ({"type": "number", "exclusiveMinimum": 0, "multipleOf": 0.5}, [0.5, 7], [0, -1.5, 0.3]),
    "boolean": ({"type": "boolean"}, [True, False], ["maybe", 7, None]),
    "nullable": ({"anyOf": [WORD, {"type": "null"}]}, ["ab", None], ["A", "a b"]),
    "union": (
        {"anyOf": [{"type": "string", "maxLength": 3}, {"type": "integer", "minimum": 5}]},
        ["abc", 6],
        ["abcd", 4],
    ),
    "merged": ({"allOf": [WORD, {"maxLength": 3}], "description": "A word."}, ["abc"], ["abcd", "A"]),
    "list": (
        {"type": "array", "items": {"type": "string", "maxLength": 3}, "minItems": 1, "maxItems": 2},
        [["a"], ["abc", "it"]],
        [[], ["abcd"], ["a", "b", "c"]],
    ),
    "tuple": (
        {
            "type": "array",
            "prefixItems": [{"type": "string", "maxLength": 9}, {"type": "integer"}],
            "items": False,
            "minItems": 2,
        },
        [["a", 1]],
        [["a"], ["a", "b"], ["a", 1, 2]],
    ),
    "object": (
        PAIR,
        [{"k": "q", "n": 3}, {"k": "qa"}],
        [{"k": "a"}, {"n": 1}, {"k": "q", "n": 4}, {"k": "q", "z": 1}],
    ),
    "recursive": (
        {"$ref": "#/$defs/node"},
        [{"text": "ab", "next": {"text": "abc"}}],
        [{"text": "a"}, {"text": "ab", "next": {"text": "abcd"}}, {"next": {"text": "ab"}}],
    ),
}
# They write no null, or in a form that is seen nowhere else.
NO_NULL = {"Kimi-K3", "MiniMax-M3"}
# What no notation but JSON is held to.
BEYOND: dict[str, dict[str, Any]] = {
    "uniqueItems": {"type": "array", "items": {"type": "integer"}, "uniqueItems": True},
    "patternProperties": {"type": "object", "patternProperties": {"^x": {"type": "string"}}},
    "not": {"type": "string", "not": {"const": "x"}},
    "minProperties": {"type": "object", "properties": {"a": {"type": "string"}}, "minProperties": 1},
    "oneOf": {"oneOf": [{"type": "string", "maxLength": 3}, {"type": "string", "minLength": 2}]},
}
# Texts in Python and within JSON are held to these, too.
RAW_ONLY: dict[str, dict[str, Any]] = {
    "pattern": {"type": "string", "pattern": "(a$|^b)"},
    "format": {"type": "string", "format": "ipv6"},
}


def tools_with(schema: dict[str, Any], *, strict: bool = True) -> list[Tool]:
    parameters = {
        "type": "object",
        "properties": {"value": schema},
        "required": ["value"],
        "additionalProperties": False,
        "$defs": {"node": NODE},
    }
    return read_tools(
        [{"type": "function", "function": {"name": "f", "strict": strict, "parameters": parameters}}]
    )


def style_of(fmt: ChatFormat) -> tuple[Any, ...]:
    form: Any = fmt.form.channels or fmt.form.calls
    style = form.arguments
    return (isinstance(form, ChannelForm), type(style), getattr(style, "python", False))


def test_no_way_is_missing() -> None:
    own = {name for name in NAMES if not chat_format(name).has_json_arguments}
    assert {style_of(chat_format(name)) for name in FORMS} == {style_of(chat_format(name)) for name in own}
    assert set(FORMS) <= own


@pytest.mark.parametrize("template_name", FORMS)
def test_strict_schemas_hold_what_the_model_writes(template_name: str) -> None:
    fmt = chat_format(template_name)
    for case, (schema, good, wrong) in CASES.items():
        tools = tools_with(schema)
        good = [value for value in good if value is not None or template_name not in NO_NULL]
        for value in (*good, *wrong):
            prompt, text = written(fmt, tools, messages_of([("f", {"value": value})]), "")
            required = fmt.constraint(AnswerWish(required=True), tools, prompt, {})
            assert required is not None
            assert not isinstance(required, Lazily)
            assert required.not_enforced == ()
            fits = any(value is other or (type(value) is type(other) and value == other) for other in good)
            assert (refusal(required.text, text.rstrip()) is None) == fits, (case, value, text)
            if fits:
                reader = fmt.reader(prompt, tools)
                assert calls_of(reader.push(text) + reader.finish()) == [("f", {"value": value})], (
                    case,
                    text,
                )


# Letters that are chosen at random would hardly ever end these.
ENDLESS = (CASES["pattern inside"][0], CASES["nullable"][0])
ALL: dict[str, Any] = {
    "type": "object",
    "properties": {
        **{f"v{i}": schema for i, (schema, _, _) in enumerate(CASES.values()) if schema not in ENDLESS},
        "u": {"type": ["integer", "string"], "maxLength": 4},
        "n": {"anyOf": [{"type": "string", "pattern": "^[a-z]{1,4}$"}, {"type": "null"}]},
        "p": {"type": "string", "pattern": "[0-9]|^x", "maxLength": 5},
        "w": {
            "type": ["array", "null", "string"],
            "items": {"type": "integer"},
            "maxItems": 2,
            "maxLength": 6,
        },
    },
    "required": ["v0", "v4", "v8", "v13", "v15", "u", "n"],
    "additionalProperties": False,
    "$defs": {"node": NODE},
}


@pytest.mark.parametrize("template_name", FORMS)
def test_whatever_is_chosen_is_read_as_the_schema_says(template_name: str) -> None:
    fmt = chat_format(template_name)
    function = {"name": "f", "strict": True, "parameters": ALL}
    tools = read_tools([{"type": "function", "function": function}])
    prompt, _ = written(fmt, tools, messages_of([("f", {})]), "")
    prompt = replace(prompt, in_thought=False, may_think=False)
    grammar = fmt.constraint(AnswerWish(required=True, parallel=False), tools, prompt, {})
    assert isinstance(grammar, Grammar)
    for seed in range(4):
        text = random_text(grammar.text, seed)
        reader = fmt.reader(prompt, tools)
        [(name, arguments)] = calls_of(reader.push(text) + reader.finish())
        assert name == "f"
        jsonschema.validate(arguments, ALL)


@pytest.mark.parametrize("template_name", FORMS)
def test_what_cannot_be_held_is_refused_or_named(template_name: str) -> None:
    fmt = chat_format(template_name)
    style = style_of(fmt)
    left = {**BEYOND, **({} if style[1] is PythonArguments else RAW_ONLY)}
    prompt, _ = written(fmt, tools_with({}), messages_of([("f", {"value": "a"})]), "")
    for keyword, schema in left.items():
        # Between most tags lists and objects are JSON, of which llguidance says what it can't do.
        if style[1:] == (TaggedArguments, False) and schema.get("type") in ("array", "object"):
            continue
        place = f"/properties/value/{keyword}"
        with pytest.raises(InvalidRequest, match=f"'f' is strict, but {place} can't be enforced") as caught:
            fmt.constraint(AnswerWish(required=True), tools_with(schema), prompt, {})
        assert caught.value.param == "tools"
        lenient = fmt.constraint(AnswerWish(required=True), tools_with(schema, strict=False), prompt, {})
        assert lenient is not None
        assert not isinstance(lenient, Lazily)
        assert lenient.not_enforced == (f"tools#{place}",)
        assert refusal(lenient.text, "") == "it wants more"


LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-3, 9)
    | st.sampled_from(["a", "string", "weird", "^a", "#", "#/x"])
)
KEYWORDS = st.sampled_from(
    [
        *(
            "type",
            "enum",
            "const",
            "anyOf",
            "oneOf",
            "allOf",
            "$ref",
            "items",
            "prefixItems",
            "minItems",
            "not",
        ),
        *("properties", "required", "additionalProperties", "pattern", "maxLength", "format", "minimum", "a"),
    ]
)
SCHEMAS = st.recursive(
    LEAVES | st.sampled_from([{"$ref": "#"}, {"type": "string"}, {"$ref": "#/properties/value"}]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYWORDS, inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(schema=st.dictionaries(KEYWORDS, SCHEMAS, max_size=4), name=st.sampled_from(FORMS))
def test_no_schema_is_more_than_refused(schema: dict[str, Any], name: str) -> None:
    fmt = chat_format(name)
    with contextlib.suppress(InvalidRequest):
        tools = tools_with(schema, strict=False)
        grammar = fmt.constraint(AnswerWish(required=True), tools, NOTHING_BEFORE, {})
        assert isinstance(grammar, Grammar)


HOSTILE: dict[str, dict[str, Any]] = {
    "itself": {"allOf": [{"$ref": "#"}]},
    "alternatives of itself": {"anyOf": [{"$ref": "#/properties/value"}] * 3},
    "a long chain": {"$ref": "#/$defs/d0"},
    "two of two of two": {"$ref": "#/$defs/t0"},
}
DEFINITIONS = {f"d{i}": {"items": {"$ref": f"#/$defs/d{i + 1}"}} for i in range(1500)} | {
    f"t{i}": {"anyOf": [{"allOf": [{"$ref": f"#/$defs/t{i + 1}"}, {"title": title}]} for title in "xy"]}
    for i in range(40)
}


@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.parametrize("template_name", FORMS)
def test_a_hostile_schema_ends_soon(template_name: str, case: str) -> None:
    definitions = DEFINITIONS | {"d1500": {"type": "string"}, "t40": {"type": "string", "maxLength": 3}}
    parameters = {"type": "object", "properties": {"value": HOSTILE[case]}, "$defs": definitions}
    tools = read_tools([{"type": "function", "function": {"name": "f", "parameters": parameters}}])
    started = time.process_time()
    with contextlib.suppress(InvalidRequest):
        chat_format(template_name).constraint(AnswerWish(required=True), tools, NOTHING_BEFORE, {})
    assert time.process_time() - started < 5


# Their templates write these in a way that can't be read back.
UNREADABLE = {"Kimi-K3": 'a"b', "MiniMax-M3": "a<b", "google-gemma-4-31B-it": "a:b"}


@pytest.mark.parametrize("template_name", FORMS)
def test_names_of_arguments_may_be_anything(template_name: str) -> None:
    fmt = chat_format(template_name)
    for key in (
        "a b",
        "a-b",
        "\u00e9",
        "a.b",
        "$x",
        'a"b',
        "a<b",
        "a/b",
        "a'b",
        "a=b",
        "a:b",
        "filter[a]",
        "1",
    ):
        calls = [("f", {key: "v", "other": "w"})]
        tools = tools_of(calls)
        prompt, text = written(fmt, tools, messages_of(calls), "")
        required = fmt.constraint(AnswerWish(required=True), tools, prompt, {})
        assert isinstance(required, Grammar)
        if key == UNREADABLE.get(template_name):
            continue
        is_quoted = template_name == "google-gemma-4-31B-it" and not set('"<[').isdisjoint(key)
        assert (refusal(required.text, text.rstrip()) is None) != is_quoted, (key, text)
        for size in (1, len(text)):
            reader = fmt.reader(prompt, tools)
            events = [event for i in range(0, len(text), size) for event in reader.push(text[i : i + size])]
            assert calls_of(events + reader.finish()) == calls, (key, text)


@pytest.mark.parametrize(
    ("pattern", "fitting", "other"),
    [
        ("^a|b$", ["ax", "xb"], ["xa", "bx", ""]),
        ("^(a|b)$", ["a", "b"], ["ab", ""]),
        (r"^\$[0-9]+(\.[0-9]{2})?$", ["$1", "$12.50"], ["1", "$1.5"]),
        (r"[\]^$|/]", ["a/b", "^", "]"], ["ab"]),
        ("(?i)abc", ["xABc"], ["ab"]),
        ("^[^]a]+$", ["bc"], ["a", "]"]),
        ("a\nb/", ["a\nb/"], ["a\nb"]),
        ("", ["", "any"], []),
    ],
)
def test_patterns_are_searched_for(pattern: str, fitting: list[str], other: list[str]) -> None:
    terminals, left = text_limits({"pattern": pattern})
    assert left == []
    grammar = f"start: T\nT: {terminals[0]}"
    for text in fitting:
        assert refusal(grammar, text) is None, text
    for text in other:
        assert refusal(grammar, text) is not None, text


@pytest.mark.parametrize("pattern", ["a^b", "a$b", "(^a)|b", r"\bfoo", r"a\z", "(a$|b)"])
def test_other_anchors_cannot_be_held(pattern: str) -> None:
    assert text_limits({"pattern": pattern}) == ([], ["pattern"])


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_formats_are_what_json_is_held_to(data: st.DataObject) -> None:
    """What fits in llguidance's JSON fits here, too, and the other way round."""
    name = data.draw(st.sampled_from(sorted(set(FORMATS) - {"email", "hostname", "uri"})))
    text = data.draw(st.from_regex(FORMATS[name], fullmatch=True).filter(str.isascii))
    grammar = "start: %json " + json.dumps({"type": "string", "format": name})
    assert refusal(grammar, json.dumps(text)) is None, (name, text)
