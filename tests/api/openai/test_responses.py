"""The Responses API with OpenAI's own client and types, against a real model that says a script."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any, Literal

import httpx
import openai
import pytest
from agent_script import CALLS, FUNCTIONS, LAST, PLAIN, QUESTION, SCHEMAS, TEXT, THOUGHT
from openai.types.responses import InputTokenCountResponse, Response, ResponseStreamEvent
from pydantic import BaseModel
from scripted_engine import say
from scripted_server import ScriptedServer, scripted_server
from server_process import Server
from shapes import exactly, named_events

from predictor.api.openai.responses.items import read_input
from predictor.engine.request import Delta
from predictor.errors import EngineFailure, InvalidRequest

TOOLS: list[Any] = [
    {"type": "function", "name": name, "parameters": schema, "strict": True}
    for name, schema in SCHEMAS.items()
]


@pytest.fixture(scope="module")
def agent(agent_server: Server) -> Iterator[openai.OpenAI]:
    url = agent_server.http_url + "/v1"
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def scripted() -> Iterator[ScriptedServer]:
    with scripted_server() as server:
        yield server


def streamed(server: Server, **fields: Any) -> list[Any]:
    """The events of a response: each of OpenAI's types, all numbered without a gap."""
    body = {"model": server.model_name, "stream": True, **fields}
    answer = httpx.post(f"{server.http_url}/v1/responses", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    events = [exactly(ResponseStreamEvent, payload) for _, payload in named_events(answer.text)]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    return events


def outputs(response: Any) -> list[Any]:
    """Results of a response's calls, as the next request's input."""
    return [
        {
            "type": "function_call_output",
            "call_id": item.call_id,
            "output": FUNCTIONS[item.name](**json.loads(item.arguments)),
        }
        for item in response.output
        if item.type == "function_call"
    ]


def said(response: Any) -> list[Any]:
    """What the output says, without ids."""
    drop = {"id", "call_id", "status"}
    return [item.model_dump(exclude=drop, exclude_none=True) for item in response.output]


def test_an_agents_loop_of_three_calls(agent: openai.OpenAI) -> None:
    conversation: list[Any] = [{"role": "user", "content": QUESTION}]
    called = []
    for _ in range(5):
        response = agent.responses.create(model="agent", input=conversation, tools=TOOLS)
        exactly(Response, response.model_dump(exclude_unset=True, by_alias=True))
        assert (response.status, response.store) == ("completed", False)
        results = outputs(response)
        called += [(i.name, json.loads(i.arguments)) for i in response.output if i.type == "function_call"]
        if not results:
            break
        conversation += [*response.output, *results]
    assert called == CALLS
    assert response.output_text == LAST
    assert response.usage is not None
    assert response.usage.input_tokens_details.cached_tokens > 0
    assert response.usage.output_tokens_details.reasoning_tokens > 0


def test_a_stream_tells_each_item_from_its_begin_to_its_end(agent_server: Server, agent: Any) -> None:
    events = streamed(agent_server, input=QUESTION, tools=TOOLS)
    item = ["output_item.added"]
    part = ["content_part.added", "{}.delta", "{}.done", "content_part.done", "output_item.done"]
    expected = ["created", "in_progress"]
    expected += [*item, *(name.format("reasoning_text") for name in part)]
    expected += [*item, *(name.format("output_text") for name in part)]
    call = "function_call_arguments"
    expected += [*item, f"{call}.delta", f"{call}.done", "output_item.done", "completed"]
    names = [event.type.removeprefix("response.") for event in events]
    assert [name for i, name in enumerate(names) if name != names[i - 1]] == expected
    assert events[0].response.status == events[1].response.status == "in_progress"
    deltas: dict[str, str] = {}
    for event in events:
        if event.type.endswith(".delta"):
            deltas[event.item_id] = deltas.get(event.item_id, "") + event.delta
    whole = events[-1].response
    assert list(deltas.values()) == [THOUGHT, TEXT, whole.output[2].arguments]
    assert list(deltas) == [item.id for item in whole.output]
    done = [event.item for event in events if event.type == "response.output_item.done"]
    assert done == whole.output
    assert said(whole) == said(agent.responses.create(model="agent", input=QUESTION, tools=TOOLS))
    assert {event.response.id for event in (events[0], events[1], events[-1])} == {whole.id}


def test_the_clients_helper_adds_a_stream_up(agent: openai.OpenAI) -> None:
    with agent.responses.stream(model="agent", input=QUESTION, tools=TOOLS) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_response()
    assert {"response.output_text.delta", "response.function_call_arguments.delta"} <= kinds
    assert said(final)[1]["content"][0]["text"] == TEXT


async def test_the_async_client_and_the_raw_answer(agent_server: Server, agent: openai.OpenAI) -> None:
    raw = agent.responses.with_raw_response.create(model="agent", input="Hi")
    assert raw.headers["x-request-id"] == raw.parse()._request_id
    assert raw.parse().output_text == PLAIN
    url = agent_server.http_url + "/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        answers = await asyncio.gather(
            client.responses.create(model="agent", input="Hi"),
            client.chat.completions.create(model="agent", messages=[{"role": "user", "content": "Hi"}]),
        )
    assert answers[0].output_text == answers[1].choices[0].message.content == PLAIN


def test_several_calls_in_one_turn_are_several_items(agent_server: Server) -> None:
    history = [
        {"role": "user", "content": QUESTION},
        {"type": "function_call", "call_id": "a", "name": "weather", "arguments": '{"city": "Paris"}'},
        {"type": "function_call_output", "call_id": "a", "output": [{"type": "input_text", "text": "sunny"}]},
    ]
    events = streamed(agent_server, input=history, tools=TOOLS)
    calls = [(item.name, json.loads(item.arguments)) for item in events[-1].response.output]
    assert calls == CALLS[1:]
    indexes = [event.output_index for event in events if event.type == "response.output_item.added"]
    assert indexes == [0, 1]
    one = streamed(agent_server, input=history, tools=TOOLS, parallel_tool_calls=False)[-1].response
    assert [item.name for item in one.output] == ["add"]


@pytest.mark.parametrize(("tokens", "kinds"), [(3, ["reasoning"]), (8, ["reasoning", "message"]), (13, None)])
def test_an_answer_that_is_cut_is_incomplete_and_so_is_its_last_item(
    agent_server: Server, tokens: int, kinds: list[str] | None
) -> None:
    last = streamed(agent_server, input=QUESTION, tools=TOOLS, max_output_tokens=tokens)[-1]
    assert last.type == "response.incomplete"
    assert last.response.incomplete_details.reason == "max_output_tokens"
    assert last.response.max_output_tokens == last.response.usage.output_tokens == tokens
    assert [item.status for item in last.response.output][-1] == "incomplete"
    assert {item.status for item in last.response.output[:-1]} <= {"completed"}
    expected = kinds or ["reasoning", "message", "function_call"]
    assert [item.type for item in last.response.output] == expected


def test_a_custom_tool_is_called_with_plain_text(agent_server: Server) -> None:
    """The model forced to call writes what it likes: a text of letters, since a regex says so."""
    form = {"type": "grammar", "syntax": "regex", "definition": "[a-z]{3,5}"}
    tool = {"type": "custom", "name": "note", "description": "Takes a note.", "format": form}
    events = streamed(agent_server, input=QUESTION, tools=[tool], tool_choice="required", temperature=0)
    [item] = [item for item in events[-1].response.output if item.type == "custom_tool_call"]
    assert item.name == "note"
    assert item.input.isalpha()
    assert 3 <= len(item.input) <= 5
    names = [event.type for event in events if "custom" in event.type]
    assert names == ["response.custom_tool_call_input.delta", "response.custom_tool_call_input.done"]


def test_tools_of_a_namespace_are_called_by_it(agent_server: Server) -> None:
    tools = [{"type": "namespace", "name": "crm", "description": "Customers.", "tools": TOOLS[:1]}]
    fields: dict[str, Any] = {"input": QUESTION, "tools": tools, "temperature": 0, "max_output_tokens": 200}
    last = streamed(agent_server, **fields, tool_choice="required")[-1].response
    [call] = [item for item in last.output if item.type == "function_call"]
    assert (call.namespace, call.name) == ("crm", "weather")


def test_allowed_tools_are_the_only_ones(agent_server: Server) -> None:
    only = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "add"}]}
    fields: dict[str, Any] = {"input": QUESTION, "tools": TOOLS, "temperature": 0, "max_output_tokens": 200}
    last = streamed(agent_server, **fields, tool_choice=only)[-1].response
    assert {item.name for item in last.output if item.type == "function_call"} == {"add"}


def test_what_agents_send_of_codexs_kind_is_taken(agent_server: Server, agent: openai.OpenAI) -> None:
    """Tools that only OpenAI runs, sealed thoughts, and fields that label and place a request."""
    first = agent.responses.create(
        model="agent",
        instructions="You are a coding agent.",
        input=[{"type": "message", "role": "user", "content": [{"type": "input_text", "text": QUESTION}]}],
        tools=[*TOOLS, {"type": "web_search"}, {"type": "local_shell"}],
        tool_choice="auto",
        parallel_tool_calls=False,
        reasoning={"effort": "medium", "summary": "auto"},
        store=False,
        include=["reasoning.encrypted_content"],
        prompt_cache_key="a-session",
        text={"verbosity": "low"},
        extra_body={"service_tier": "priority", "client_metadata": {"a": "b"}},
    )
    thought, message, call = first.output
    assert thought.type == "reasoning"
    assert thought.encrypted_content
    assert THOUGHT not in thought.encrypted_content
    # As Codex sends it back: without the text, but with what is sealed.
    sealed = {
        "type": "reasoning",
        "summary": [],
        "encrypted_content": thought.encrypted_content,
    }
    history = [{"role": "user", "content": QUESTION}, sealed, message.to_dict(), call.to_dict()]
    assert read_input(history, None)[0][1]["reasoning_content"] == THOUGHT
    second = agent.responses.create(model="agent", input=[*history, *outputs(first)], tools=TOOLS)  # type: ignore[list-item]
    assert second.output[0].type == "function_call"
    assert "tools are passed over" in agent_server.log.read_text()


def test_a_response_says_what_it_was_asked_for(agent: openai.OpenAI) -> None:
    asked: dict[str, Any] = {
        "instructions": "Be brief.",
        "metadata": {"run": "7"},
        "temperature": 0.5,
        "top_p": 0.9,
        "tool_choice": "none",
        "parallel_tool_calls": False,
        "prompt_cache_key": "key",
        "reasoning": {"effort": "low"},
    }
    response = agent.responses.create(model="agent", input="Hi", store=True, truncation="disabled", **asked)
    assert response.output_text == PLAIN
    answered = response.to_dict()
    answered["reasoning"].pop("summary", None)  # type: ignore[attr-defined]
    assert {name: answered[name] for name in asked} == asked
    assert response.store is False


class Capital(BaseModel):
    city: Literal["Paris", "Rome"]


def test_a_parsed_answer(server: Server, client: openai.OpenAI) -> None:
    question = "What is the capital of France? Answer in JSON."
    answer = client.responses.parse(
        model=server.model_name, input=question, text_format=Capital, temperature=0, max_output_tokens=50
    )
    assert isinstance(answer.output_parsed, Capital)


def test_text_comes_with_logprobs_where_they_are_included(server: Server) -> None:
    fields: dict[str, Any] = {"input": "Hi", "max_output_tokens": 4, "temperature": 0}
    include = ["message.output_text.logprobs"]
    events = streamed(server, **fields, include=include, top_logprobs=2)
    [item] = events[-1].response.output
    entries = item.content[0].logprobs
    assert len(entries) == 4
    assert all(len(entry.top_logprobs) == 2 for entry in entries)
    assert "".join(entry.token for entry in entries) == item.content[0].text
    deltas = [event for event in events if event.type == "response.output_text.delta"]
    assert [e.token for delta in deltas for e in delta.logprobs] == [e.token for e in entries]
    without = streamed(server, **fields)[-1].response.output[0]
    assert without.content[0].logprobs == []


def test_tokens_are_counted_as_they_are_used(agent_server: Server, agent: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "agent", "input": QUESTION, "tools": TOOLS, "instructions": "Be brief."}
    counted = agent.responses.input_tokens.count(**asked)
    exactly(InputTokenCountResponse, counted.model_dump())
    usage = agent.responses.create(**asked).usage
    assert usage is not None
    assert counted.input_tokens == usage.input_tokens


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id", "send the whole conversation"),
        ({"conversation": "conv_1"}, "conversation", "send the whole conversation"),
        ({"background": True}, "background", "stream the answer"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt", "no stored prompts"),
        ({"input": None}, "input", "a text or a list"),
        ({"input": []}, "messages", "empty"),
        (
            {"input": [{"type": "item_reference", "id": "msg_1"}]},
            "input",
            "input[0]: this server stores nothing",
        ),
        ({"input": [{"type": "nonsense"}]}, "input", "input[0] is of type 'nonsense'"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input", "takes text only"),
        ({"input": [{"role": "robot", "content": "Hi"}]}, "input", "input[0].role must be"),
        ({"input": [{"type": "function_call", "name": "f"}]}, "input", "input[0].call_id is missing"),
        ({"tools": [{"name": "f"}]}, "tools", "tools[0] must be an object with a type"),
        ({"tool_choice": "required"}, "tool_choice", "needs tools"),
        ({"tool_choice": {"type": "web_search"}}, "tool_choice", "must be"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "name": "g"}}, "tool_choice", "'g'"),
        ({"text": {"format": {"type": "xml"}}}, "text.format", "must have the type"),
        ({"reasoning": {"effort": "huge"}}, "reasoning.effort", "must be"),
        ({"max_output_tokens": -5}, "max_tokens", "must be between"),
        ({"temperature": 1000}, "temperature", "must be between"),
    ],
)
def test_what_can_not_be_served_is_refused_with_its_field(
    scripted: Any, fields: dict[str, Any], param: str, words: str
) -> None:
    answer = scripted.post("/v1/responses", {"input": "Hi", "stream": True, **fields})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == param
    assert words in error["message"]


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ("Hi", [{"role": "user", "content": "Hi"}]),
        (
            [
                {"type": "reasoning", "summary": [{"type": "summary_text", "text": "s"}]},
                {"role": "assistant", "content": [{"type": "output_text", "text": "t"}]},
                {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
                {"type": "custom_tool_call", "call_id": "2", "name": "g", "input": "x"},
                {"type": "local_shell_call", "call_id": "3", "action": {"command": ["ls"]}},
                {"type": "function_call_output", "call_id": "1", "output": "one"},
                {"type": "shell_call_output", "call_id": "3", "output": [{"stdout": "a"}]},
                {"type": "web_search_call", "id": "ws", "status": "completed"},
                {"role": "developer", "content": "d"},
            ],
            [
                {
                    "role": "assistant",
                    "content": "t",
                    "reasoning_content": "s",
                    "tool_calls": [
                        {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}},
                        {
                            "id": "2",
                            "type": "function",
                            "function": {"name": "g", "arguments": '{"input": "x"}'},
                        },
                        {
                            "id": "3",
                            "type": "function",
                            "function": {"name": "local_shell", "arguments": '{"command": ["ls"]}'},
                        },
                    ],
                },
                {"role": "tool", "tool_call_id": "1", "content": "one"},
                {"role": "tool", "tool_call_id": "3", "content": '[{"stdout": "a"}]'},
                {"role": "developer", "content": "d"},
            ],
        ),
        (
            [
                {"role": "assistant", "content": "a"},
                {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "b"}], "summary": []},
                {"role": "assistant", "content": "c"},
            ],
            [
                {"role": "assistant", "content": "a"},
                {"role": "assistant", "content": "c", "reasoning_content": "b"},
            ],
        ),
    ],
)
def test_items_become_messages(items: Any, expected: Any) -> None:
    assert read_input(items, None)[0] == expected
    assert read_input(items, "Be brief.")[0] == [{"role": "system", "content": "Be brief."}, *expected]


def test_a_summary_of_another_servers_making_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="send the conversation itself"):
        read_input([{"type": "compaction", "encrypted_content": "x"}], None)


def test_a_failure_in_mid_stream_fails_the_response(scripted: Any) -> None:
    scripted.engine.scripts = [[Delta("Hel", completion_tokens=1), EngineFailure("decode failed")]]
    text = scripted.post("/v1/responses", {"input": "Hi", "stream": True}).text
    events = [exactly(ResponseStreamEvent, payload) for _, payload in named_events(text)]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[-1].type == "response.failed"
    assert events[-1].response.status == "failed"
    assert events[-1].response.error.message == "decode failed"
    assert events[-1].response.output[0].content[0].text == "Hel"


def test_an_empty_answer_is_an_empty_message(scripted: Any) -> None:
    scripted.engine.scripts = [say()]
    answer = exactly(Response, scripted.post("/openai/v1/responses", {"input": "Hi"}).json())
    assert (answer.status, answer.output_text) == ("completed", "")
    assert [item.type for item in answer.output] == ["message"]
