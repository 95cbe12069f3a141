"""Conversations as clients send them, with every template of the corpus."""

from __future__ import annotations

import json
from typing import Any

import pytest
from template_corpus import NAMES, each_template
from written_answers import chat_format, tool

from predictor.chat.conversation import read_messages
from predictor.chat.prompting import Conversation
from predictor.chat.tools import read_tools
from predictor.errors import InvalidRequest

TOOLS = [tool("get_weather", {"city": "Rome"}), tool("now", {})]
BARE_TOOLS: list[Any] = [
    {"type": "function", "function": {"name": "admin.tools.list"}},
    {
        "type": "function",
        "function": {"name": "files/read", "parameters": {"type": "object", "properties": None}},
    },
    {
        "type": "function",
        "function": {
            "name": "n" * 100,
            "description": None,
            "strict": None,
            "parameters": {"properties": {"a": {"type": "string", "enum": None}}, "required": None},
        },
    },
    {
        "type": "function",
        "function": {
            "name": "of-pydantic",
            "description": "An optional text, a list of objects and a reference.",
            "parameters": {
                "type": "object",
                "properties": {
                    "a": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None, "title": "A"},
                    "b": {"type": "array", "items": {"$ref": "#/$defs/B"}},
                    "c": {"type": ["integer", "null"]},
                    "d": {"enum": ["x", "y"]},
                    "e": {"type": "object"},
                },
                "$defs": {"B": {"type": "object", "properties": {"n": {"type": "integer"}}}},
            },
        },
    },
]


def call(name: str, arguments: Any, call_id: str = "call_0123456789abcdef01234567") -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def user(text: str = "Zquser") -> dict[str, Any]:
    return {"role": "user", "content": text}


def answer(text: str | None = "Zqanswer", **fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **fields}


def result(text: str | None = "Zqresult", call_id: str = "call_0123456789abcdef01234567") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": text}


SYSTEM = {"role": "system", "content": "Zqsystem"}
ROME = json.dumps({"city": "Zqrome"})
CALLED = answer(None, tool_calls=[call("get_weather", ROME)])
TWICE = answer(
    None,
    tool_calls=[call("get_weather", ROME, "call_1"), call("now", "", "call_2")],
)
# Each with the words that must come back.
CONVERSATIONS: dict[str, tuple[list[dict[str, Any]], str]] = {
    "plain": ([user()], "Zquser"),
    "system": ([SYSTEM, user()], "Zqsystem Zquser"),
    "developer": ([{**SYSTEM, "role": "developer"}, user()], "Zqsystem Zquser"),
    "two system": ([SYSTEM, {**SYSTEM, "content": "Zqmore"}, user()], "Zqsystem Zqmore Zquser"),
    "turns": ([user("Zqfirst"), answer(), user()], "Zqfirst Zqanswer Zquser"),
    "two users": ([user("Zqfirst"), user()], "Zqfirst Zquser"),
    "two answers": ([user("Zqfirst"), answer("Zqone"), answer(), user()], "Zqfirst Zqone Zqanswer Zquser"),
    "answer first": ([answer(), user()], "Zqanswer Zquser"),
    "system and answer first": ([SYSTEM, answer(), user()], "Zqsystem Zqanswer Zquser"),
    "late system": ([user("Zqfirst"), answer(), SYSTEM, user()], "Zqsystem Zquser"),
    "list content": ([user("") | {"content": [{"type": "text", "text": "Zquser"}]}], "Zquser"),
    "parts of history": (
        [
            user("Zqfirst"),
            answer() | {"content": [{"type": "output_text", "text": "Zqpart", "annotations": []}]},
            user(),
        ],
        "Zqfirst Zqpart Zquser",
    ),
    "refusal part": (
        [user(), answer() | {"content": [{"type": "refusal", "refusal": "Zqno"}]}, user()],
        "Zqno Zquser",
    ),
    "refusal": ([user(), answer(None, refusal="Zqno"), user()], "Zqno Zquser"),
    "null answer": ([user("Zqfirst"), answer(None), user()], "Zqfirst Zquser"),
    "no answer": ([user("Zqfirst"), {"role": "assistant"}, user()], "Zqfirst Zquser"),
}
TOOL_CONVERSATIONS: dict[str, tuple[list[dict[str, Any]], str]] = {
    "tools": ([user()], "Zquser"),
    "tools and system": ([SYSTEM, user()], "Zqsystem Zquser"),
    "tool turn": ([user(), CALLED, result()], "Zquser Zqrome Zqresult"),
    "tool turn with text": ([user(), CALLED | {"content": "Zqtext"}, result()], "Zquser Zqrome Zqresult"),
    "next turn": (
        [user("Zqfirst"), CALLED, result(), answer(), user()],
        "Zqfirst Zqrome Zqresult Zqanswer Zquser",
    ),
    "two calls": (
        [user(), TWICE, result("Zqone", "call_1"), result("Zqtwo", "call_2")],
        "Zquser Zqrome Zqone Zqtwo",
    ),
    "null result": ([user(), CALLED, result(None)], "Zquser Zqrome"),
    "result in parts": (
        [user(), CALLED, result() | {"content": [{"type": "text", "text": "Zqresult"}]}],
        "Zquser Zqrome Zqresult",
    ),
    "cut arguments": (
        [user(), answer(None, tool_calls=[call("get_weather", '{"city": "Zqro')]), result()],
        "Zquser Zqro Zqresult",
    ),
    "arguments as an object": (
        [user(), answer(None, tool_calls=[call("get_weather", {"city": "Zqrome"})]), result()],
        "Zquser Zqrome Zqresult",
    ),
    "thought before a call": (
        [user(), CALLED | {"reasoning_content": "Zqthought"}, result()],
        "Zquser Zqrome Zqresult",
    ),
    "thought, text and call": (
        [user(), CALLED | {"reasoning": "Zqthought", "content": "Zqtext"}, result()],
        "Zquser Zqrome Zqresult",
    ),
}
# It shows the thought of the last message only, which here is a result.
LAST_THOUGHT = {"Apriel-1.6-15b-Thinker-fixed"}


@each_template
@pytest.mark.parametrize("kind", CONVERSATIONS)
def test_a_conversation_comes_back(template_name: str, kind: str) -> None:
    messages, words = CONVERSATIONS[kind]
    text = chat_format(template_name).prompt(Conversation(messages)).text
    for word in words.split():
        assert word in text


@each_template
@pytest.mark.parametrize("kind", TOOL_CONVERSATIONS)
def test_a_conversation_with_tools_comes_back(template_name: str, kind: str) -> None:
    messages, words = TOOL_CONVERSATIONS[kind]
    text = chat_format(template_name).prompt(Conversation(messages, read_tools(TOOLS))).text
    assert "get_weather" in text
    at = 0
    for word in words.split():
        assert word in text[at:], text
        at = text.index(word, at)


@each_template
def test_tools_as_real_clients_send_them_are_shown(template_name: str) -> None:
    tools = read_tools(BARE_TOOLS)
    text = chat_format(template_name).prompt(Conversation([user()], tools)).text
    assert all(tool.name in text for tool in tools)


def test_thoughts_of_the_history_reach_the_templates_that_take_them() -> None:
    """Of calls since the last user's message, as all templates that show any do."""
    messages, _ = TOOL_CONVERSATIONS["thought before a call"]
    showing = {
        name
        for name in NAMES
        if "Zqthought" in chat_format(name).prompt(Conversation(messages, read_tools(TOOLS), {}, "high")).text
    }
    taking = {
        name
        for name in NAMES
        if chat_format(name).abilities.thought_fields or chat_format(name).abilities.thought_parts
    }
    assert showing == taking - LAST_THOUGHT
    assert len(taking) > 30


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"role": "user"}, "messages[0].content is missing"),
        ({"role": "system", "content": None}, "messages[0].content is missing"),
        ({"content": "Hi"}, "messages[0].role must be a string"),
        ({"role": "user", "content": 3}, "messages[0].content must be a string"),
        ({"role": "user", "content": [{"type": "image_url"}]}, "this server takes text only"),
        ({"role": "user", "content": ["Hi"]}, "messages[0].content[0] must be an object"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[0].content[0].text must be a string"),
        ("Hi", "messages[0] must be an object"),
        (answer(None, tool_calls="x"), "messages[0].tool_calls must be a list"),
        (answer(None, tool_calls=[3]), "messages[0].tool_calls[0] must be"),
        (answer(None, tool_calls=[{}]), "messages[0].tool_calls[0] must be"),
        (answer(None, tool_calls=[call("f", "[1]")]), "arguments must be the JSON text of an object"),
        (answer(reasoning_content=3), "messages[0].reasoning_content must be a string"),
    ],
)
def test_malformed_messages_are_named(message: Any, expected: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_messages([message])
    assert expected in caught.value.message
    assert caught.value.param == "messages"
