"""Tools of a request: reading them, and showing them, calls and results to templates of both kinds."""

from __future__ import annotations

import json
from typing import Any

import pytest

from predictor.chat.template import ChatTemplate
from predictor.chat.tools import MAX_TOOLS, for_template, read_tools, shows_tools
from predictor.errors import InvalidRequest

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather in a city \u00e9",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {"id": "1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Rome"}'}},
        {"id": "2", "type": "function", "function": {"name": "now", "arguments": ""}},
    ],
}
RESULTS = [
    {"role": "tool", "tool_call_id": "1", "content": "sunny"},
    {"role": "tool", "tool_call_id": "2", "content": "noon"},
]
USER = {"role": "user", "content": "Weather?"}
# The parts of Qwen 2.5's template that concern tools.
QWEN = (
    "{% if tools %}<tools>{% for tool in tools %}{{ tool | tojson }}{% endfor %}</tools>{% endif %}"
    "{% for m in messages %}[{{ m.role }}]{% if m.content %}{{ m.content }}{% endif %}"
    "{% for call in m.tool_calls or [] %}{% set f = call.function %}<tool_call>{"
    '"name": "{{ f.name }}", "arguments": {{ f.arguments | tojson }}}</tool_call>{% endfor %}{% endfor %}'
)


def test_a_tool_is_read() -> None:
    [tool, bare] = read_tools([WEATHER, {"type": "function", "function": {"name": "now", "strict": True}}])
    assert (tool.name, tool.strict, bare.strict) == ("get_weather", False, True)
    assert tool.parameters["required"] == ["city"]
    assert bare.parameters["additionalProperties"] is False
    assert read_tools(None) == read_tools([]) == []


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("x", "must be a list"),
        ([3], r"tools\[0\] must be"),
        ([WEATHER, {"type": "web_search"}], r"tools\[1\] must be"),
        ([{"type": "function", "function": {}}], "name must be 1 to 64"),
        ([{"type": "function", "function": {"name": 'a"b'}}], "name must be 1 to 64"),
        ([{"type": "function", "function": {"name": "a" * 65}}], "name must be 1 to 64"),
        ([{"type": "function", "function": {"name": "a", "parameters": []}}], "of type object"),
        (
            [{"type": "function", "function": {"name": "a", "parameters": {"type": "string"}}}],
            "of type object",
        ),
        ([{"type": "function", "function": {"name": "a", "strict": "yes"}}], "strict must be"),
        ([WEATHER, WEATHER], "same name"),
        ([WEATHER] * (MAX_TOOLS + 1), "at most 128"),
    ],
)
def test_malformed_tools(value: Any, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message) as caught:
        read_tools(value)
    assert caught.value.param == "tools"


def test_which_templates_show_tools_in_the_form_that_is_read() -> None:
    assert shows_tools(QWEN)
    assert not shows_tools("{{ messages }}")
    assert not shows_tools("{% if tools %}[AVAILABLE_TOOLS]{% endif %}")
    assert not shows_tools("{% if tools %}<tool_call><function=name>{% endif %}")


def test_a_template_that_shows_tools_gets_parsed_arguments() -> None:
    messages = for_template([USER, CALL, *RESULTS], read_tools([WEATHER]), shows_tools=True)
    text = ChatTemplate(QWEN, "", "").render(messages, tools=[WEATHER]).text
    assert text.startswith("<tools>" + json.dumps(WEATHER, ensure_ascii=False) + "</tools>[user]Weather?")
    assert '<tool_call>{"name": "get_weather", "arguments": {"city": "Rome"}}</tool_call>' in text
    assert '<tool_call>{"name": "now", "arguments": {}}</tool_call>' in text
    assert "[tool]sunny[tool]noon" in text
    assert CALL["tool_calls"][0]["function"]["arguments"] == '{"city": "Rome"}'  # type: ignore[index]


def test_for_other_templates_all_is_in_texts() -> None:
    system = {"role": "system", "content": "Be brief."}
    thanks = {"role": "user", "content": "Thanks"}
    messages = for_template([system, USER, CALL, *RESULTS, thanks], read_tools([WEATHER]), shows_tools=False)
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user", "user"]
    assert messages[0]["content"].startswith("Be brief.\n\n# Tools")
    assert json.dumps(WEATHER, ensure_ascii=False) in messages[0]["content"]
    assert messages[2]["content"] == (
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
    )
    assert messages[3]["content"] == (
        "<tool_response>\nsunny\n</tool_response>\n<tool_response>\nnoon\n</tool_response>"
    )
    assert all(set(message) <= {"role", "content"} for message in messages)


def test_tools_need_no_system_message_of_the_request() -> None:
    first, second = for_template([USER], read_tools([WEATHER]), shows_tools=False)
    assert (first["role"], second) == ("system", USER)
    assert for_template([USER], [], shows_tools=False) == [USER]


@pytest.mark.parametrize(
    "calls", ["x", [3], [{}], [{"function": {"name": "f"}}], [{"function": {"name": "f", "arguments": "{"}}]]
)
@pytest.mark.parametrize("native", [True, False])
def test_malformed_calls_in_a_message(calls: Any, native: bool) -> None:
    message = {"role": "assistant", "content": None, "tool_calls": calls}
    with pytest.raises(InvalidRequest, match=r"messages\[1\].tool_calls") as caught:
        for_template([USER, message], [], shows_tools=native)
    assert caught.value.param == "messages"
