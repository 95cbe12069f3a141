"""Reading calls out of an answer that comes in pieces."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from predictor.chat.tool_calls import ArgumentsPart, CallStarted, Event, Text, ToolCallReader

ADD = '<tool_call>\n{"name": "add", "arguments": {"a": [1, {"b": "}\\"]"}]}}\n</tool_call>'
NOW = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'


def read(pieces: Sequence[str]) -> tuple[str, list[tuple[str, str]], list[Event]]:
    """Text, calls as names and arguments, and the events themselves."""
    reader = ToolCallReader()
    events = [event for piece in pieces for event in reader.push(piece)] + reader.finish()
    text, calls = "", []
    for event in events:
        match event:
            case Text(part):
                text += part
            case CallStarted(index, name):
                assert index == len(calls)
                calls.append((name, ""))
            case ArgumentsPart(index, part):
                assert index == len(calls) - 1
                calls[index] = (calls[index][0], calls[index][1] + part)
    return text, calls, events


@pytest.mark.parametrize(
    ("answer", "text", "calls"),
    [
        ("Hello.", "Hello.", []),
        (" \n", " \n", []),
        ("a <tool_ b <tool_call", "a <tool_ b <tool_call", []),
        (ADD, "", [("add", '{"a": [1, {"b": "}\\"]"}]}')]),
        (f"Sure. {ADD}", "Sure. ", [("add", '{"a": [1, {"b": "}\\"]"}]}')]),
        (f"{NOW}\n{NOW}\n", "", [("now", "{}"), ("now", "{}")]),
        (f"{NOW}\n Done.", "\n Done.", [("now", "{}")]),
        ('<tool_call>{"arguments":{"a":1},"name":"add"}</tool_call>', "", [("add", '{"a": 1}')]),
        ('<tool_call>{"name":"add","parameters":{"a":1}}</tool_call>', "", [("add", '{"a": 1}')]),
        ("<tool_call>nothing</tool_call>!", "<tool_call>nothing</tool_call>!", []),
        ('<tool_call>{"name": 3}</tool_call>', '<tool_call>{"name": 3}</tool_call>', []),
        ('<tool_call>\n{"name": "add", "argu', '<tool_call>\n{"name": "add", "argu', []),
        ('<tool_call>\n{"name": "add", "arguments": {"a": "x', "", [("add", '{"a": "x')]),
        ('<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool', "", [("add", '{"a": 1}')]),
    ],
)
def test_text_and_calls_come_apart_however_they_are_cut(
    answer: str, text: str, calls: list[tuple[str, str]]
) -> None:
    for size in (1, 2, 3, 7, len(answer)):
        pieces = [answer[i : i + size] for i in range(0, len(answer), size)]
        assert read(pieces)[:2] == (text, calls), size


@given(
    st.lists(
        st.tuples(
            st.text("ab<>_tol \n", max_size=12),
            st.dictionaries(
                st.text(max_size=5), st.text(max_size=8) | st.integers() | st.lists(st.text(max_size=3))
            ),
        ),
        max_size=3,
    ),
    st.lists(st.integers(0, 200), max_size=30),
)
def test_any_arguments_in_any_pieces(parts: list[tuple[str, dict[str, object]]], cuts: list[int]) -> None:
    calls = [json.dumps({"name": "f", "arguments": arguments}, ensure_ascii=False) for _, arguments in parts]
    answer = "".join(
        f"{text}<tool_call>\n{call}\n</tool_call>" for (text, _), call in zip(parts, calls, strict=True)
    )
    bounds = sorted({0, len(answer), *(cut for cut in cuts if cut < len(answer))})
    text, read_calls, _ = read([answer[start:end] for start, end in pairwise(bounds)])
    assert [json.loads(arguments) for _, arguments in read_calls] == [arguments for _, arguments in parts]
    kept = [text for i, (text, _) in enumerate(parts) if i == 0 or text.strip()]
    assert text == "".join(kept)


def test_white_space_in_a_text_between_calls_is_kept_however_it_is_cut() -> None:
    call = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
    assert read([f"{call}a", " ", call])[0] == read([f"{call}a {call}"])[0] == "a "
    assert read([call, " ", call])[0] == ""


def test_arguments_come_as_they_are_written() -> None:
    reader = ToolCallReader()
    reader.push('<tool_call>\n{"name": "add", "arguments": ')
    assert reader.push('{"a"') == [CallStarted(0, "add"), ArgumentsPart(0, '{"a"')]
    assert reader.push(": 1") == [ArgumentsPart(0, ": 1")]
    assert reader.calls == 0
    assert reader.push("}}\n</tool_call>") == [ArgumentsPart(0, "}")]
    assert reader.calls == 1


def test_text_is_held_back_only_while_it_may_begin_a_call() -> None:
    reader = ToolCallReader()
    assert reader.push("Well <to") == [Text("Well ")]
    assert reader.push("day>") == [Text("<today>")]
