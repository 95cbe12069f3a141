"""Tools of a request: reading them, and showing them, calls and results to templates of both kinds."""

from __future__ import annotations

import json
from typing import Any

import pytest

from predictor.chat.format import ChatFormat
from predictor.chat.prompting import Conversation
from predictor.chat.template import ChatTemplate
from predictor.chat.tools import MAX_TOOLS, read_tools
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
        ([{"type": "function", "function": {}}], "name must be 1 to 256"),
        ([{"type": "function", "function": {"name": 'a"b'}}], "name must be 1 to 256"),
        ([{"type": "function", "function": {"name": "a" * 257}}], "name must be 1 to 256"),
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


def test_what_json_schema_does_not_know_is_left_out() -> None:
    function = {
        "name": "admin.tools/list",
        "description": None,
        "parameters": {
            "properties": {"a": {"type": "string", "default": None, "enum": None}},
            "required": None,
        },
    }
    [tool] = read_tools([{"type": "function", "function": function}])
    schema = {"type": "object", "properties": {"a": {"type": "string", "default": None}}}
    assert tool.parameters == schema
    assert tool.definition["function"] == {"name": "admin.tools/list", "parameters": schema}
    [tool] = read_tools([{"type": "function", "function": {"name": "f", "parameters": {"properties": None}}}])
    assert tool.definition["function"]["parameters"] == {"type": "object", "properties": {}}


def test_a_template_that_shows_tools_gets_parsed_arguments() -> None:
    fmt = ChatFormat(ChatTemplate(QWEN, "", ""))
    text = fmt.prompt(Conversation([USER, CALL, *RESULTS], read_tools([WEATHER]))).text
    assert text.startswith("<tools>" + json.dumps(WEATHER, ensure_ascii=False) + "</tools>[user]Weather?")
    assert '<tool_call>{"name": "get_weather", "arguments": {"city": "Rome"}}</tool_call>' in text
    assert '<tool_call>{"name": "now", "arguments": {}}</tool_call>' in text
    assert "[tool]sunny[tool]noon" in text
    assert CALL["tool_calls"][0]["function"]["arguments"] == '{"city": "Rome"}'  # type: ignore[index]


PLAIN = ChatFormat(ChatTemplate("{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}", "", ""))


def test_for_other_templates_all_is_in_texts() -> None:
    system = {"role": "system", "content": "Be brief."}
    thanks = {"role": "user", "content": "Thanks"}
    text = PLAIN.prompt(Conversation([system, USER, CALL, *RESULTS, thanks], read_tools([WEATHER]))).text
    assert text.startswith("[system]Be brief.\n\n# Tools")
    assert json.dumps(WEATHER, ensure_ascii=False) in text
    assert text.endswith(
        "[user]Weather?[assistant]"
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
        "[user]<tool_response>\nsunny\n</tool_response>\n<tool_response>\nnoon\n</tool_response>"
        "[user]Thanks"
    )


def test_tools_need_no_system_message_of_the_request() -> None:
    assert PLAIN.prompt(Conversation([USER], read_tools([WEATHER]))).text.startswith("[system]# Tools")
    assert PLAIN.prompt(Conversation([USER])).text == "[user]Weather?"
