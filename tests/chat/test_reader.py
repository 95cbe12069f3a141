"""Reading thoughts, text and calls out of an answer that comes in pieces."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictor.chat.channels import ChannelReader
from predictor.chat.events import ArgumentsPart, CallStarted, Event, Text
from predictor.chat.form import AnswerForm, CallForm, ChannelForm, ContentForm, JsonArguments, ThoughtForm
from predictor.chat.known_forms import HERMES, described_calls, known_channels
from predictor.chat.reader import FormReader
from predictor.chat.tools import read_tools

ADD = '<tool_call>\n{"name": "add", "arguments": {"a": [1, {"b": "}\\"]"}]}}\n</tool_call>'
TOOLS = read_tools([{"type": "function", "function": {"name": name}} for name in ("add", "now", "f")])
NOW = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'


def read(pieces: Sequence[str]) -> tuple[str, list[tuple[str, str]], list[Event]]:
    """Text, calls as names and arguments, and the events themselves."""
    reader = FormReader(AnswerForm(calls=HERMES), TOOLS)
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
        (f"Sure. {ADD}", "Sure.", [("add", '{"a": [1, {"b": "}\\"]"}]}')]),
        (f"{NOW}\n{NOW}\n", "", [("now", "{}"), ("now", "{}")]),
        (f"{NOW}\n Done.", "Done.", [("now", "{}")]),
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
    # White space around calls belongs to the form.
    assert "".join(text.split()) == "".join("".join(part.split()) for part, _ in parts)


def test_white_space_between_calls_is_no_text_however_it_is_cut() -> None:
    call = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
    assert read([f"{call}a b", " ", call])[0] == read([f"{call}a b {call}"])[0] == "a b"
    assert read([call, " ", call])[0] == ""


def test_arguments_come_as_they_are_written() -> None:
    reader = FormReader(AnswerForm(calls=HERMES), TOOLS)
    reader.push('<tool_call>\n{"name": "add", "arguments": ')
    assert reader.push('{"a"') == [CallStarted(0, "add"), ArgumentsPart(0, '{"a"')]
    assert reader.push(": 1") == [ArgumentsPart(0, ": 1")]
    assert reader.calls == 0
    assert reader.push("}}\n</tool_call>") == [ArgumentsPart(0, "}")]
    assert reader.calls == 1


def test_text_is_held_back_only_while_it_may_begin_a_call() -> None:
    reader = FormReader(AnswerForm(calls=HERMES), TOOLS)
    assert reader.push("Well <to") == [Text("Well")]
    assert reader.push("day>") == [Text(" <today>")]


QWEN = AnswerForm(ThoughtForm("<think>\n", "\n</think>\n\n"), ContentForm(), HERMES)


def told(reader: FormReader | ChannelReader, text: str, size: int) -> list[tuple[str, str]]:
    """What a text in pieces says, each kind's parts joined."""
    events: list[Event] = []
    for i in range(0, len(text), size):
        events += reader.push(text[i : i + size])
    joined: list[tuple[str, str]] = []
    for event in events + reader.finish():
        kind = type(event).__name__
        said = event.name if isinstance(event, CallStarted) else event.text
        if joined and joined[-1][0] == kind and not isinstance(event, CallStarted):
            joined[-1] = (kind, joined[-1][1] + said)
        else:
            joined.append((kind, said))
    return joined


@pytest.mark.parametrize("size", [1, 2, 5, 1000])
@pytest.mark.parametrize(
    ("in_thought", "text", "expected"),
    [
        (False, "<think>\nHm.\n</think>\n\nYes.", [("Thought", "Hm."), ("Text", "Yes.")]),
        (True, "Hm.\n\nSo.\n</think>\n\nYes.\n", [("Thought", "Hm.\n\nSo."), ("Text", "Yes.\n")]),
        (True, "<think>\nHm.</think>Yes.", [("Thought", "Hm."), ("Text", "Yes.")]),
        (False, "<think>\n\n</think>\n\nYes.", [("Text", "Yes.")]),
        (True, "</think>Yes.", [("Text", "Yes.")]),
        (False, "No <think> here.", [("Text", "No <think> here.")]),
        (True, "Cut off in the mid", [("Thought", "Cut off in the mid")]),
        (True, "Cut </thi", [("Thought", "Cut </thi")]),
        (True, f"A <tool_call>\n</think>{NOW}", [("Thought", "A <tool_call>"), ("CallStarted", "now")]),
        (False, f"<think>a</think>Text{ADD}", [("Thought", "a"), ("Text", "Text"), ("CallStarted", "add")]),
        (False, " \n Spaces", [("Text", " \n Spaces")]),
    ],
)
def test_thoughts_come_first(in_thought: bool, text: str, expected: list[tuple[str, str]], size: int) -> None:
    found = told(FormReader(QWEN, TOOLS, in_thought=in_thought), text, size)
    assert [part for part in found if part[0] != "ArgumentsPart"] == expected


def test_a_reader_knows_whether_it_is_in_a_thought() -> None:
    reader = FormReader(QWEN, TOOLS, in_thought=True)
    assert reader.is_thinking
    reader.push("Hm.\n</think>")
    assert not reader.is_thinking


def test_what_stands_around_the_content_is_no_text() -> None:
    form = AnswerForm(ThoughtForm("[T]", "[/T]"), ContentForm("<TEXT>", "</TEXT>"), HERMES)
    for size in (1, 3, 100):
        found = told(FormReader(form, TOOLS), "[T]Hm[/T]<TEXT>Yes</TEXT> junk", size)
        assert found == [("Thought", "Hm"), ("Text", "Yes")]


# Llama 3.x: a call begins like any JSON.
BARE = AnswerForm(
    calls=CallForm(
        ('{"name": "',), ('", "parameters": ',), None, ("}",), JsonArguments(), trigger='{"name": "'
    )
)


@pytest.mark.parametrize("size", [1, 4, 1000])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"name": "now", "parameters": {}}', [("CallStarted", "now"), ("ArgumentsPart", "{}")]),
        ('{"name":"now","parameters":{}}', [("CallStarted", "now"), ("ArgumentsPart", "{}")]),
        (
            '{"type": "function", "name": "f", "parameters": {"a": "}"}}',
            [("CallStarted", "f"), ("ArgumentsPart", '{"a": "}"}')],
        ),
        ('{"ok": true, "name": "x"}', [("Text", '{"ok": true, "name": "x"}')]),
        ('It says {"name": "now"}.', [("Text", 'It says {"name": "now"}.')]),
        ('{"name": "no', [("Text", '{"name": "no')]),
    ],
)
def test_calls_without_a_mark(text: str, expected: list[tuple[str, str]], size: int) -> None:
    assert told(FormReader(BARE, TOOLS), text, size) == expected


def channels(source: str) -> ChannelForm:
    form = known_channels(source)
    assert form is not None
    return form


HARMONY = channels("<|channel|>analysis<|message|> <|start|>assistant")


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Yes.",
            [("Thought", "Hm."), ("Text", "Yes.")],
        ),
        (
            "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
            "<|channel|>commentary to=functions.now "
            "<|constrain|>json<|message|>{}<|call|>",
            [("Thought", "Hm."), ("CallStarted", "now"), ("ArgumentsPart", "{}")],
        ),
        (
            " to=functions.now<|channel|>commentary json<|message|>{}",
            [("CallStarted", "now"), ("ArgumentsPart", "{}")],
        ),
        ("<|channel|>commentary<|message|>I will look.<|end|>", [("Text", "I will look.")]),
        ("<|channel|>analysis<|message|>Cut", [("Thought", "Cut")]),
        ("<|channel|>ana", []),
    ],
)
def test_messages_to_recipients(text: str, expected: list[tuple[str, str]], size: int) -> None:
    assert told(ChannelReader(HARMONY, TOOLS), text, size) == expected


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_python_calls(size: int) -> None:
    calls = described_calls("List of tools: [ <|im_start|>")
    inner = """[f(a="it's", b=[1, None, {'x': True}], c=-1.5), now()]"""
    text = f"Sure.<|tool_call_start|>{inner}<|tool_call_end|> Done."
    found = told(FormReader(AnswerForm(calls=calls), TOOLS), text, size)
    assert found == [
        ("Text", "Sure."),
        ("CallStarted", "f"),
        ("ArgumentsPart", '{"a": "it\'s", "b": [1, null, {"x": true}], "c": -1.5}'),
        ("CallStarted", "now"),
        ("ArgumentsPart", "{}"),
        ("Text", "Done."),
    ]
    broken = "<|tool_call_start|>[f(a=]<|tool_call_end|>"
    assert told(FormReader(AnswerForm(calls=calls), TOOLS), broken, size) == [("Text", broken)]
