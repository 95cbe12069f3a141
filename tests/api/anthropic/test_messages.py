"""The Messages API with Anthropic's own client and types, against a real model that says a script."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import pytest
from agent_script import CALLS, FUNCTIONS, LAST, PLAIN, QUESTION, SCHEMAS, TEXT, THOUGHT
from anthropic.types import Message, MessageTokensCount, RawMessageStreamEvent
from scripted_engine import say
from scripted_server import ScriptedServer, scripted_server
from server_process import Server
from shapes import exactly, named_events

from predictor.api.anthropic.content import read_messages
from predictor.engine.request import Delta, FinishReason
from predictor.errors import EngineFailure, ModelNotFound, NotReady, QueueFull

TOOLS: list[Any] = [{"name": name, "input_schema": schema} for name, schema in SCHEMAS.items()]
THINKING: Any = {"type": "enabled", "budget_tokens": 1024}
ASKED: dict[str, Any] = {"max_tokens": 1000, "tools": TOOLS, "thinking": THINKING}
HI = [{"role": "user", "content": "Hi"}]


@pytest.fixture(scope="module")
def agent(agent_server: Server) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(
        base_url=agent_server.http_url, api_key="none", max_retries=0, timeout=60
    ) as client:
        yield client


@pytest.fixture(scope="module")
def scripted() -> Iterator[ScriptedServer]:
    with scripted_server() as server:
        yield server


@pytest.fixture(autouse=True)
def hello(scripted: ScriptedServer) -> None:
    scripted.engine.scripts = [say("Hel", "lo")]
    scripted.engine.refusal = None


def streamed(server: Server, messages: Any, **fields: Any) -> list[Any]:
    """The events of a message, each but pings of Anthropic's types."""
    body = {"model": server.model_name, "messages": messages, "stream": True, **ASKED, **fields}
    answer = httpx.post(f"{server.http_url}/v1/messages?beta=true", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    events = [payload for _, payload in named_events(answer.text)]
    return [exactly(RawMessageStreamEvent, event) for event in events if event["type"] != "ping"]


def results(message: Any) -> list[Any]:
    """What a message's calls give, as the next user message's content."""
    return [
        {"type": "tool_result", "tool_use_id": block.id, "content": FUNCTIONS[block.name](**block.input)}
        for block in message.content
        if block.type == "tool_use"
    ]


def said(message: Any) -> list[Any]:
    """What a message says, without ids."""
    return [block.model_dump(exclude={"id"}, exclude_none=True) for block in message.content]


def test_an_agents_loop_of_three_calls(agent: anthropic.Anthropic) -> None:
    conversation: list[Any] = [{"role": "user", "content": QUESTION}]
    called = []
    for _ in range(5):
        message = agent.messages.create(model="agent", messages=conversation, **ASKED)
        exactly(Message, message.model_dump(exclude_unset=True))
        called += [(block.name, block.input) for block in message.content if block.type == "tool_use"]
        given = results(message)
        assert message.stop_reason == ("tool_use" if given else "end_turn")
        if not given:
            break
        conversation += [
            {"role": "assistant", "content": message.content},
            {"role": "user", "content": given},
        ]
    assert called == CALLS
    assert message.content[-1].text == LAST  # type: ignore[union-attr]
    counted = agent.messages.count_tokens(
        model="agent", messages=conversation, tools=TOOLS, thinking=THINKING
    )
    exactly(MessageTokensCount, counted.model_dump())
    usage = message.usage
    assert usage.cache_read_input_tokens
    assert usage.input_tokens + usage.cache_read_input_tokens == counted.input_tokens


def test_a_stream_tells_each_block_from_its_begin_to_its_end(agent_server: Server, agent: Any) -> None:
    events = streamed(agent_server, [{"role": "user", "content": QUESTION}])
    kinds = [event.type for event in events]
    block = ["content_block_start", "content_block_delta", "content_block_stop"]
    assert [kind for i, kind in enumerate(kinds) if kind != kinds[i - 1]] == [
        "message_start",
        *block * 3,
        "message_delta",
        "message_stop",
    ]
    deltas = [event.delta.type for event in events if event.type == "content_block_delta"]
    assert list(dict.fromkeys(deltas)) == [
        "thinking_delta",
        "signature_delta",
        "text_delta",
        "input_json_delta",
    ]
    with agent.messages.stream(
        model="agent", messages=[{"role": "user", "content": QUESTION}], **ASKED
    ) as stream:
        helped = stream.get_final_message()
    whole = agent.messages.create(model="agent", messages=[{"role": "user", "content": QUESTION}], **ASKED)
    assert said(helped) == said(whole)
    assert [block.type for block in whole.content] == ["thinking", "text", "tool_use"]
    assert (whole.content[0].thinking, whole.content[1].text) == (THOUGHT, TEXT)
    assert events[-2].usage.output_tokens == whole.usage.output_tokens == helped.usage.output_tokens


def test_hidden_thoughts_come_back(agent: anthropic.Anthropic) -> None:
    question: Any = [{"role": "user", "content": QUESTION}]
    hidden = {**THINKING, "display": "omitted"}
    message = agent.messages.create(model="agent", messages=question, **{**ASKED, "thinking": hidden})
    thought = message.content[0]
    assert thought.type == "thinking"
    assert thought.thinking == ""
    assert THOUGHT not in thought.signature
    back = [*question, {"role": "assistant", "content": [thought.to_dict(), {"type": "text", "text": "a"}]}]
    assert read_messages(None, back)[1]["reasoning_content"] == THOUGHT


def test_a_choice_of_tools(agent: anthropic.Anthropic) -> None:
    def called(choice: Any, question: str = QUESTION) -> list[str]:
        message = agent.messages.create(
            model="agent",
            messages=[{"role": "user", "content": question}],
            tools=TOOLS,
            tool_choice=choice,
            max_tokens=200,
            extra_body={"temperature": 0},
        )
        return [block.name for block in message.content if block.type == "tool_use"]

    assert called({"type": "tool", "name": "add"}) == ["add"]
    assert called({"type": "none"}) == []
    assert called({"type": "any", "disable_parallel_tool_use": True}) in (["weather"], ["add"])
    history: list[Any] = [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "weather", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": "sunny"}]},
    ]
    for choice, names in (({}, ["add", "weather"]), ({"disable_parallel_tool_use": True}, ["add"])):
        message = agent.messages.create(
            model="agent",
            messages=history,
            tools=TOOLS,
            tool_choice={"type": "auto", **choice},  # type: ignore[typeddict-item]
            max_tokens=200,
        )
        assert [block.name for block in message.content if block.type == "tool_use"] == names


@pytest.mark.parametrize(("tokens", "kind"), [(3, "thinking"), (7, "text"), (13, "tool_use")])
def test_an_answer_that_is_cut(agent: anthropic.Anthropic, tokens: int, kind: str) -> None:
    fields = {**ASKED, "max_tokens": tokens}
    message = agent.messages.create(model="agent", messages=[{"role": "user", "content": QUESTION}], **fields)
    assert message.stop_reason == "max_tokens"
    assert message.content[-1].type == kind
    assert message.usage.output_tokens == tokens


def test_a_stop_sequence_is_named(agent: anthropic.Anthropic) -> None:
    fields: dict[str, Any] = {"model": "agent", "messages": HI, "max_tokens": 100}
    message = agent.messages.create(**fields, stop_sequences=["never", "help"])
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "help")
    assert message.content[0].text == PLAIN.partition("help")[0]  # type: ignore[union-attr]
    with agent.messages.stream(**fields, stop_sequences=["help"]) as stream:
        assert stream.get_final_message().stop_sequence == "help"


def test_what_claude_code_sends_is_taken(agent_server: Server, agent: anthropic.Anthropic) -> None:
    """Blocks with cache_control, tools that only Anthropic runs, headers and fields of betas."""
    body = {
        "model": "agent",
        "max_tokens": 32000,
        "system": [
            {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1; cch=00000;"},
            {
                "type": "text",
                "text": "You are an agent.",
                "cache_control": {"type": "ephemeral", "ttl": "1h"},
            },
        ],
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "<system-reminder>a</system-reminder>"},
                    {"type": "text", "text": QUESTION, "cache_control": {"type": "ephemeral"}},
                ],
            }
        ],
        "tools": [
            *({**tool, "eager_input_streaming": True} for tool in TOOLS),
            {"type": "web_search_20250305", "name": "web_search", "max_uses": 8},
        ],
        "metadata": {"user_id": "user_1"},
        "thinking": {"type": "adaptive"},
        "output_config": {"effort": "medium"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "service_tier": "auto",
        "stream": True,
    }
    headers = {
        "x-api-key": "none",
        "anthropic-version": "2023-06-01",
        "anthropic-beta": "claude-code-20250219,interleaved-thinking-2025-05-14",
    }
    url = f"{agent_server.http_url}/v1/messages?beta=true"
    answer = httpx.post(url, json=body, headers=headers, timeout=60)
    assert answer.status_code == 200, answer.text
    assert answer.headers["request-id"] == answer.headers["x-request-id"]
    names = [name for name, _ in named_events(answer.text)]
    assert names[:2] == ["message_start", "ping"]
    assert names[-1] == "message_stop"
    assert "tools are passed over" in agent_server.log.read_text()
    assert httpx.head(agent_server.http_url + "/").status_code == 200


@pytest.mark.parametrize(
    ("system", "messages", "expected"),
    [
        ("Be brief.", HI, [{"role": "system", "content": "Be brief."}, *HI]),
        ([{"type": "text", "text": "x-anthropic-billing-header: cch=1;"}], HI, HI),
        (
            None,
            [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "a"},
                        {"type": "tool_result", "tool_use_id": "1", "content": "one", "is_error": True},
                        {
                            "type": "tool_result",
                            "tool_use_id": "2",
                            "content": [{"type": "text", "text": "two"}, {"type": "text", "text": "three"}],
                        },
                        {"type": "tool_result", "tool_use_id": "3", "is_error": True},
                        {
                            "type": "document",
                            "title": "T",
                            "source": {"type": "text", "media_type": "text/plain", "data": "d"},
                        },
                    ],
                },
                {
                    "role": "assistant",
                    "content": [
                        {"type": "thinking", "thinking": "t", "signature": "other"},
                        {"type": "redacted_thinking", "data": "x"},
                        {"type": "text", "text": "b"},
                        {"type": "tool_use", "id": "4", "name": "f", "input": {"a": "\u00e4"}},
                    ],
                },
            ],
            [
                {"role": "user", "content": "a"},
                {"role": "tool", "tool_call_id": "1", "content": "one"},
                {"role": "tool", "tool_call_id": "2", "content": "two\nthree"},
                {"role": "tool", "tool_call_id": "3", "content": "the tool failed"},
                {"role": "user", "content": "T\nd"},
                {
                    "role": "assistant",
                    "content": "b",
                    "reasoning_content": "t",
                    "tool_calls": [
                        {
                            "id": "4",
                            "type": "function",
                            "function": {"name": "f", "arguments": '{"a": "\u00e4"}'},
                        }
                    ],
                },
            ],
        ),
    ],
)
def test_blocks_become_messages(system: Any, messages: Any, expected: Any) -> None:
    assert read_messages(system, messages) == expected


def test_the_last_answer_is_continued(server: Server) -> None:
    with anthropic.Anthropic(base_url=server.http_url, api_key="none", max_retries=0) as client:
        message = client.messages.create(
            model=server.model_name,
            max_tokens=8,
            extra_body={"temperature": 0},
            messages=[
                {"role": "user", "content": "What is the capital of France?"},
                {"role": "assistant", "content": "The capital of France is"},
            ],
        )
    assert message.content[0].text.lstrip().startswith("Paris")  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages is empty"),
        ({"messages": [{"role": "robot", "content": "Hi"}]}, "messages[0].role must be"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content must be"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "takes text only"),
        ({"messages": [{"role": "user", "content": [{"type": "new"}]}]}, "is of type 'new'"),
        ({"system": [{"type": "image"}]}, "system[0] must be of type text"),
        ({"tools": [{"name": "f"}]}, "tools[0].input_schema"),
        ({"tool_choice": {"type": "any"}}, "needs tools"),
        ({"tool_choice": "auto"}, "tool_choice must be"),
        ({"thinking": {"type": "sometimes"}}, "thinking.type"),
        ({"output_config": {"format": {"type": "xml"}}}, "output_config.format must be"),
        ({"max_tokens": -3}, "max_tokens must be between"),
        ({"top_k": "many"}, "top_k"),
    ],
)
def test_what_can_not_be_served_is_refused(scripted: Any, fields: dict[str, Any], words: str) -> None:
    answer = scripted.post("/v1/messages", {"messages": HI, "max_tokens": 5, **fields})
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert words in answer.json()["error"]["message"]


def test_the_clients_tool_runner_goes_on_without_a_thread(agent: anthropic.Anthropic) -> None:
    """It asks for a thread first, of which it would send only what is new."""
    called: list[Any] = []

    def weather(city: str) -> str:
        """The weather in a city."""
        called.append(("weather", {"city": city}))
        return FUNCTIONS["weather"](city)  # type: ignore[no-any-return]

    def add(a: int, b: int) -> str:
        """The sum of two numbers."""
        called.append(("add", {"a": a, "b": b}))
        return FUNCTIONS["add"](a, b)  # type: ignore[no-any-return]

    runner = agent.beta.messages.tool_runner(
        model="agent",
        max_tokens=200,
        tools=[anthropic.beta_tool(weather), anthropic.beta_tool(add)],
        messages=[{"role": "user", "content": QUESTION}],
    )
    assert runner.until_done().content[-1].text == LAST  # type: ignore[union-attr]
    assert called == CALLS


ERRORS = [
    (ModelNotFound("m"), 404, "not_found_error", anthropic.NotFoundError),
    (QueueFull("m", retry_after=3), 429, "rate_limit_error", anthropic.RateLimitError),
    (NotReady("m"), 503, "overloaded_error", anthropic.InternalServerError),
    (EngineFailure("m"), 500, "api_error", anthropic.InternalServerError),
]


@pytest.mark.parametrize(("error", "status", "kind", "raised"), ERRORS)
def test_errors_have_anthropics_form(
    scripted: Any, error: Exception, status: int, kind: str, raised: type[anthropic.APIStatusError]
) -> None:
    scripted.engine.refusal = error
    with (
        anthropic.Anthropic(base_url=scripted.url, api_key="none", max_retries=0) as client,
        pytest.raises(raised) as caught,
    ):
        client.messages.create(model="tiny", max_tokens=5, messages=[{"role": "user", "content": "Hi"}])
    answer: Any = caught.value.body
    assert caught.value.status_code == status
    assert answer["type"] == "error"
    assert answer["error"] == {"type": kind, "message": "m"}
    assert answer["request_id"] == caught.value.request_id
    assert caught.value.request_id


def test_a_failure_in_mid_stream_is_the_last_event(scripted: Any) -> None:
    scripted.engine.scripts = [[Delta("Hel", completion_tokens=1), EngineFailure("decode failed")]]
    text = scripted.post("/v1/messages", {"messages": HI, "max_tokens": 5, "stream": True}).text
    name, event = named_events(text)[-1]
    assert name == "error"
    assert event["error"] == {"type": "api_error", "message": "decode failed"}
    assert event["request_id"]


def test_an_empty_answer_has_no_content(scripted: Any) -> None:
    scripted.engine.scripts = [say(reason=FinishReason.STOP)]
    message = exactly(Message, scripted.post("/v1/messages", {"messages": HI, "max_tokens": 5}).json())
    assert (message.content, message.stop_reason) == ([], "end_turn")
