"""A form whose marks are control tokens, as Mistral's, Kimi's and Cohere's are.

Control tokens have no text of their own in answers, and a grammar must name them. The template makes marks of
control tokens that the demo model's vocabulary has for other things.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from server_process import Server, running_server

TEMPLATE = """{%- if tools %}<|im_start|>system
{{ tools | tojson }}<|im_end|>
{% endif -%}
{%- for m in messages -%}
<|im_start|>{{ m.role }}
{% if m.reasoning_content %}<issue_start>{{ m.reasoning_content }}<issue_closed>{% endif %}{{ m.content }}
{%- for call in m.tool_calls or [] -%}
<jupyter_code>{{ call.function.name }}<jupyter_text>{{ call.function.arguments | tojson }}<jupyter_output>
{%- endfor -%}
<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% if enable_thinking is not defined or enable_thinking %}<issue_start>{% endif %}{% endif %}"""
JUPYTER_CODE = "13"  # its token in the demo model
SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}]
DEFAULTS: dict[str, Any] = {
    "messages": [{"role": "user", "content": "What is the weather in Paris?"}],
    "temperature": 0,
    "max_tokens": 60,
    "extra_body": {"thinking_budget": 5},
}


@pytest.fixture(scope="module")
def server(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("control")
    (folder / "template.jinja").write_text(TEMPLATE)
    with running_server(
        model_path, folder / "log", "--chat-template", str(folder / "template.jinja")
    ) as server:
        yield server


def test_thoughts_and_calls_between_control_tokens(ask: Any, server: Server) -> None:
    assert "behind '<jupyter_code>', arguments as JSON" in server.log.read_text()
    choice = ask(tools=TOOLS, tool_choice="required").choices[0]
    assert choice.message.reasoning_content
    [call] = choice.message.tool_calls
    assert call.function.name == "weather"
    assert json.loads(call.function.arguments)["city"] in ("Paris", "Rome")
    assert choice.finish_reason == "tool_calls"
    assert not choice.message.content


def test_a_call_of_the_models_own_accord_is_held_to_its_schema(ask: Any) -> None:
    """The first token is pressed on the model: that begins a call."""
    fields = {
        "tools": TOOLS,
        "logit_bias": {JUPYTER_CODE: 100},
        "extra_body": {"chat_template_kwargs": {"enable_thinking": False}},
    }
    choice = ask(parallel_tool_calls=False, **fields).choices[0]
    [call] = choice.message.tool_calls
    assert json.loads(call.function.arguments)["city"] in ("Paris", "Rome")
    assert "jupyter" not in (choice.message.content or "")


def test_a_text_shows_no_control_tokens(ask: Any) -> None:
    message = ask().choices[0].message
    assert message.content
    assert "issue" not in message.content + message.reasoning_content
