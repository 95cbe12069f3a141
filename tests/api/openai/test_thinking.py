"""Thoughts on OpenAI's routes: told apart from answers, counted, asked for and ended.

The demo model doesn't think. With a template of a model that does, it is enough that it writes text: the
prompt has begun a thought then, or a grammar makes it think.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from server_process import Server, running_server

from predictor.api.openai.types import ChatCompletionRequest

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
# In the manner of Qwen 3.5: the prompt begins the thought.
TEMPLATE = """{%- for m in messages -%}
<|im_start|>{{ m.role }}
{% if m.role == 'assistant' and m.reasoning_content %}<think>
{{ m.reasoning_content }}
</think>

{% endif -%}
{{ m.content }}
{%- for call in m.tool_calls or [] %}<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% if enable_thinking is defined and enable_thinking is false %}<think>

</think>

{% else %}<think>
{% endif %}{% endif %}"""


@pytest.fixture(scope="module")
def server(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("thinking")
    (folder / "template.jinja").write_text(TEMPLATE)
    with running_server(
        model_path, folder / "log", "--chat-template", str(folder / "template.jinja")
    ) as server:
        yield server


DEFAULTS = {"messages": QUESTION, "temperature": 0, "max_tokens": 24}


def test_an_answer_that_is_cut_in_its_thought(ask: Any) -> None:
    answer = ask(max_tokens=5)
    choice = answer.choices[0]
    assert choice.finish_reason == "length"
    assert choice.message.content == ""
    assert choice.message.reasoning_content == choice.message.reasoning != ""
    assert answer.usage.completion_tokens_details.reasoning_tokens == answer.usage.completion_tokens == 5


def test_a_budget_ends_the_thought(ask: Any) -> None:
    answer = ask(extra_body={"thinking_budget": 4})
    message = answer.choices[0].message
    assert message.content
    assert message.reasoning_content
    assert "</think>" not in message.content + message.reasoning_content
    assert 4 <= answer.usage.completion_tokens_details.reasoning_tokens <= 10
    assert ask(extra_body={"thinking_budget": 0}).choices[0].message.content


def test_a_stream_adds_up_to_the_whole(ask: Any) -> None:
    fields = {"extra_body": {"thinking_budget": 4}}
    whole = ask(**fields)
    chunks = list(ask(stream=True, stream_options={"include_usage": True}, **fields))
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    thoughts = [delta.reasoning_content for delta in deltas if getattr(delta, "reasoning_content", None)]
    texts = [delta.content for delta in deltas if delta.content]
    assert len(thoughts) > 1
    assert "".join(thoughts) == whole.choices[0].message.reasoning_content
    assert "".join(texts) == whole.choices[0].message.content
    assert chunks[-1].usage.completion_tokens_details == whole.usage.completion_tokens_details


@pytest.mark.parametrize(
    "fields",
    [{"reasoning_effort": "none"}, {"extra_body": {"chat_template_kwargs": {"enable_thinking": False}}}],
)
def test_thinking_can_be_turned_off(ask: Any, fields: dict[str, Any]) -> None:
    answer = ask(**fields)
    assert answer.choices[0].message.content
    assert not hasattr(answer.choices[0].message, "reasoning_content")
    assert answer.usage.completion_tokens_details.reasoning_tokens == 0


def test_a_format_holds_behind_the_thought(ask: Any) -> None:
    schema = {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}},
        "required": ["ok"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    message = ask(response_format=form, extra_body={"thinking_budget": 6}, max_tokens=60).choices[0].message
    assert message.reasoning_content
    assert list(json.loads(message.content)) == ["ok"]


def test_a_call_comes_behind_the_thought(ask: Any) -> None:
    tool = {"type": "function", "function": {"name": "admin.tools/list"}}
    choice = ask(
        tools=[tool], tool_choice="required", extra_body={"thinking_budget": 6}, max_tokens=60
    ).choices[0]
    assert choice.message.reasoning_content
    assert [call.function.name for call in choice.message.tool_calls] == ["admin.tools/list"]
    assert choice.finish_reason == "tool_calls"
    assert not choice.message.content


def test_the_model_says_that_it_thinks(client: openai.OpenAI, server: Server) -> None:
    model = client.models.retrieve(server.model_name)
    assert model.model_dump()["capabilities"] == ["completion", "chat", "tools", "thinking"]


def test_thoughts_of_the_history_are_shown_again(ask: Any) -> None:
    def prompt_tokens(**fields: Any) -> int:
        said = {"role": "assistant", "content": "Paris.", **fields}
        tokens: int = ask(messages=[*QUESTION, said, *QUESTION], max_tokens=1).usage.prompt_tokens
        return tokens

    without = prompt_tokens()
    assert prompt_tokens(reasoning_content="An easy one.") > without
    assert prompt_tokens(reasoning="An easy one.") > without


def test_an_answer_can_be_continued(ask: Any, client: openai.OpenAI, server: Server) -> None:
    begun = [*QUESTION, {"role": "assistant", "content": "The capital of France is"}]
    for fields in ({}, {"extra_body": {"continue_final_message": True, "add_generation_prompt": False}}):
        message = ask(messages=begun, max_tokens=4, **fields).choices[0].message
        assert message.content.startswith(" Paris")
    new = ask(messages=begun, max_tokens=4, extra_body={"continue_final_message": False}).choices[0].message
    assert not new.content.startswith(" Paris")


def test_a_format_holds_for_an_answer_that_is_continued(ask: Any) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"enum": ["Paris is it", "Rome"]}}}
    begun = [*QUESTION, {"role": "assistant", "content": '"Paris'}]
    assert ask(messages=begun, response_format=form).choices[0].message.content == ' is it"'
    other = [*QUESTION, {"role": "assistant", "content": '"Oslo'}]
    with pytest.raises(openai.BadRequestError, match="doesn't begin what response_format allows"):
        ask(messages=other, response_format=form)


def test_a_thought_can_be_continued(ask: Any) -> None:
    begun = [*QUESTION, {"role": "assistant", "content": "<think>\nThe capital of France is"}]
    message = ask(messages=begun, max_tokens=4).choices[0].message
    assert message.reasoning_content.startswith("Paris")
    assert message.content == ""


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"reasoning_effort": "huge"}, "reasoning_effort"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": "x"}, "chat_template_kwargs"),
        ({"thinking_budget": -2}, "thinking_budget"),
        ({"continue_final_message": True}, "continue_final_message"),
        (
            {"continue_final_message": True, "add_generation_prompt": True},
            "continue_final_message",
        ),
    ],
)
def test_malformed_fields(ask: Any, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(extra_body=fields)
    assert caught.value.param == param


@pytest.mark.parametrize("reasoning", ["off", "raw"])
def test_what_the_server_does_with_thoughts(model_path: Path, tmp_path: Path, reasoning: str) -> None:
    (tmp_path / "template.jinja").write_text(TEMPLATE)
    options = ("--chat-template", str(tmp_path / "template.jinja"), "--reasoning", reasoning)
    with (
        running_server(model_path, tmp_path / "log", *options) as server,
        openai.OpenAI(base_url=server.http_url + "/v1", api_key="none") as client,
    ):
        answer = client.chat.completions.create(model=server.model_name, **DEFAULTS)
    assert answer.choices[0].message.content
    assert not hasattr(answer.choices[0].message, "reasoning_content")


@pytest.mark.parametrize(
    "name", ["thinking_token_budget", "thinking_budget_tokens", "reasoning_budget_tokens"]
)
@pytest.mark.parametrize(("sent", "budget"), [(5, 5), (0, 0), (-1, None)])
def test_other_servers_names_for_the_budget(name: str, sent: int, budget: int | None) -> None:
    body = ChatCompletionRequest.model_validate({"messages": [], name: sent})
    assert body.thinking_budget == budget
