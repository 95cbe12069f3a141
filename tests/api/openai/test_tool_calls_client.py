"""Tools on a running server with the demo model. It is too weak to call them well of its own accord: what is
tested is that calls have the form they must have, and that the client understands them."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import openai
import pytest

QUESTION = [{"role": "user", "content": "What is the weather in Paris?"}]
WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}, "unit": {"enum": ["celsius", "fahrenheit"]}},
    "required": ["city", "unit"],
    "additionalProperties": False,
}
ADD: dict[str, Any] = {
    "type": "object",
    "properties": {"a": {"$ref": "#/$defs/number"}, "b": {"$ref": "#/$defs/number"}},
    "required": ["a", "b"],
    "additionalProperties": False,
    "$defs": {"number": {"type": "integer", "minimum": 0, "maximum": 999}},
}
SCHEMAS = {"get_weather": WEATHER, "add": ADD}
TOOLS = [{"type": "function", "function": {"name": n, "parameters": s}} for n, s in SCHEMAS.items()]
DEFAULTS = {"messages": QUESTION, "tools": TOOLS, "temperature": 0, "max_tokens": 100}
ONE = {"parallel_tool_calls": False}


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def test_a_required_call_is_valid(ask: Any) -> None:
    for seed in range(3):
        choice = ask(tool_choice="required", temperature=1.2, seed=seed, **ONE).choices[0]
        assert choice.finish_reason == "tool_calls"
        [call] = choice.message.tool_calls
        assert choice.message.content is None
        assert call.id.startswith("call_")
        jsonschema.validate(json.loads(call.function.arguments), SCHEMAS[call.function.name])


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_named_function_is_called(ask: Any, name: str) -> None:
    choice = ask(tool_choice=named(name)).choices[0]
    [call] = choice.message.tool_calls
    assert (call.type, call.function.name, choice.finish_reason) == ("function", name, "tool_calls")
    jsonschema.validate(json.loads(call.function.arguments), SCHEMAS[name])


def test_several_calls_and_several_choices(ask: Any) -> None:
    answer = ask(tool_choice="required", n=2, max_tokens=150, temperature=1, seed=4)
    ids = []
    for choice in answer.choices:
        complete = choice.message.tool_calls
        if choice.finish_reason == "length":
            complete = complete[:-1]
        for call in complete:
            jsonschema.validate(json.loads(call.function.arguments), SCHEMAS[call.function.name])
            ids.append(call.id)
    assert len(set(ids)) == len(ids) >= 2


def test_a_streamed_call_adds_up_to_the_whole_one(ask: Any) -> None:
    [whole] = ask(tool_choice="required", **ONE).choices[0].message.tool_calls
    chunks = list(ask(tool_choice="required", stream=True, stream_options={"include_usage": True}, **ONE))
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    calls = [delta.tool_calls[0] for delta in deltas if delta.tool_calls]
    assert {call.index for call in calls} == {0}
    assert (calls[0].type, calls[0].function.name) == ("function", whole.function.name)
    assert calls[0].id.startswith("call_")
    assert not any(call.id or call.type or call.function.name for call in calls[1:])
    assert len(calls) > 3
    assert "".join(call.function.arguments for call in calls) == whole.function.arguments
    assert "".join(delta.content or "" for delta in deltas) == ""
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "tool_calls"
    assert chunks[-1].usage.completion_tokens > 0


def test_the_clients_own_stream_helper_understands_it(client: openai.OpenAI, server: Any) -> None:
    with client.beta.chat.completions.stream(
        model=server.model_name,
        messages=QUESTION,
        tools=TOOLS,
        tool_choice=named("add"),
        temperature=0,
        max_tokens=100,
    ) as stream:
        names = [event.type for event in stream]
        [call] = stream.get_final_completion().choices[0].message.tool_calls
    assert "tool_calls.function.arguments.done" in names
    jsonschema.validate(json.loads(call.function.arguments), ADD)


def test_a_call_that_is_cut_ends_with_length(ask: Any) -> None:
    choice = ask(tool_choice=named("get_weather"), max_tokens=24).choices[0]
    assert choice.finish_reason == "length"
    with pytest.raises(json.JSONDecodeError):
        json.loads(choice.message.tool_calls[0].function.arguments)


def test_an_agent_goes_on_after_a_call_that_was_cut(ask: Any) -> None:
    cut = ask(tool_choice=named("get_weather"), max_tokens=24).choices[0].message
    history = [*QUESTION, cut.model_dump(exclude_none=True)]
    history.append({"role": "tool", "tool_call_id": cut.tool_calls[0].id, "content": None})
    assert ask(messages=history, max_tokens=4).choices[0].message.content


def test_auto_leaves_an_answer_free(ask: Any) -> None:
    choice = ask().choices[0]
    assert choice.message.content
    assert choice.message.tool_calls is None
    assert choice.finish_reason in ("stop", "length")


def test_auto_holds_a_call_to_its_schema(ask: Any) -> None:
    """Earlier calls bring the model to make one, with a unit that the schema doesn't have."""
    messages = []
    for city in ("Rome", "Oslo", "Lima", "Cairo"):
        arguments = json.dumps({"city": city, "unit": "kelvin"})
        messages += [
            {"role": "user", "content": f"Weather in {city}?"},
            {"role": "assistant", "content": None, "tool_calls": [call("get_weather", arguments)]},
            {"role": "tool", "tool_call_id": "1", "content": "sunny"},
        ]
    messages.append({"role": "user", "content": "Weather in Paris?"})
    choice = ask(messages=messages, **ONE).choices[0]
    [made] = choice.message.tool_calls
    jsonschema.validate(json.loads(made.function.arguments), WEATHER)
    assert choice.finish_reason == "tool_calls"
    stream = ask(messages=messages, stream=True, **ONE)
    deltas = [chunk.choices[0].delta for chunk in stream]
    parts = [delta.tool_calls[0].function.arguments for delta in deltas if delta.tool_calls]
    assert "".join(parts) == made.function.arguments


def call(name: str, arguments: str) -> dict[str, Any]:
    return {"id": "1", "type": "function", "function": {"name": name, "arguments": arguments}}


def test_none_shows_no_tools(ask: Any, client: openai.OpenAI, server: Any) -> None:
    none = ask(tool_choice="none", max_tokens=8)
    plain = client.chat.completions.create(
        model=server.model_name, messages=QUESTION, temperature=0, max_tokens=8
    )
    assert none.usage.prompt_tokens == plain.usage.prompt_tokens < ask(max_tokens=1).usage.prompt_tokens
    assert none.choices[0].message.content == plain.choices[0].message.content


def test_with_a_response_format_the_answer_is_that_or_a_call(ask: Any) -> None:
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    form = {
        "type": "json_schema",
        "json_schema": {"name": "a", "schema": {**schema, "additionalProperties": False}},
    }
    for seed in range(4):
        message = ask(response_format=form, temperature=1.5, seed=seed, **ONE).choices[0].message
        if message.tool_calls:
            [made] = message.tool_calls
            jsonschema.validate(json.loads(made.function.arguments), SCHEMAS[made.function.name])
        else:
            jsonschema.validate(json.loads(message.content), schema)


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"tools": "x"}, "tools", "must be a list"),
        ({"tools": [{"type": "web_search"}]}, "tools", "must be"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"$ref": "#/x"}}}]},
            "tools",
            "x",
        ),
        ({"tool_choice": "always"}, "tool_choice", "must be"),
        ({"tool_choice": named("nosuch")}, "tool_choice", "'nosuch'"),
        ({"tools": [], "tool_choice": "required"}, "tool_choice", "needs tools"),
        ({"parallel_tool_calls": "yes"}, "parallel_tool_calls", "boolean"),
        ({"extra_body": {"grammar": 'root ::= "a"'}}, "grammar", "can't be used with tools"),
        (
            {"messages": [*QUESTION, {"role": "assistant", "tool_calls": [call("f", "[1]")]}]},
            "messages",
            "must be the JSON text of an object",
        ),
    ],
)
def test_malformed_fields(ask: Any, fields: dict[str, Any], param: str, message: str) -> None:
    with pytest.raises(openai.BadRequestError, match=message) as caught:
        ask(**fields)
    assert caught.value.param == param
