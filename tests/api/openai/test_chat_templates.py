"""Tools in the models' own forms, end to end: the demo model behind the templates of five families.

It is too weak to call tools of its own accord, so the calls are required: the grammar makes it write them in
the family's form, the reader reads them back, and OpenAI's client understands them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import openai
import pytest
from server_process import Server, running_server
from template_corpus import template_folder

# JSON behind tags, JSON in a list, bare JSON, tagged arguments, and JSON behind a name with a count.
FAMILIES = (
    "Qwen-Qwen3-0.6B",
    "mistralai-Mistral-Nemo-Instruct-2407",
    "meta-llama-Llama-3.2-3B-Instruct",
    "Qwen3-Coder",
    "moonshotai-Kimi-K2",
)
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"enum": ["Paris", "Rome"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
        "airport": {"type": "string", "pattern": "^[A-Z]{3}$"},
    },
    "required": ["city", "days", "airport"],
    "additionalProperties": False,
}
TOOLS = [{"type": "function", "function": {"name": "weather.get", "strict": True, "parameters": SCHEMA}}]
QUESTION = [{"role": "user", "content": "What is the weather in Paris?"}]
DEFAULTS = {
    "messages": QUESTION,
    "tools": TOOLS,
    "temperature": 0,
    "max_tokens": 240,
    "parallel_tool_calls": False,
    # The demo model would think for ever.
    "extra_body": {"chat_template_kwargs": {"enable_thinking": False}},
}


@pytest.fixture(scope="module", params=FAMILIES)
def server(
    request: pytest.FixtureRequest, model_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("family") / "log"
    template = template_folder() / f"{request.param}.jinja"
    with running_server(model_path, log, "--chat-template", str(template)) as server:
        yield server


def test_a_call_an_agents_turn_and_a_stream(ask: Any, client: openai.OpenAI, server: Server) -> None:
    choice = ask(tool_choice="required").choices[0]
    [call] = choice.message.tool_calls
    assert (choice.finish_reason, call.function.name) == ("tool_calls", "weather.get")
    jsonschema.validate(json.loads(call.function.arguments), SCHEMA)
    assert not choice.message.content

    answered = [
        *QUESTION,
        choice.message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "sunny"},
    ]
    assert ask(messages=answered, max_tokens=4).choices[0].message.content is not None

    fields = {**DEFAULTS, "tool_choice": "required"}
    with client.beta.chat.completions.stream(model=server.model_name, **fields) as stream:
        names = [event.type for event in stream]
        final = stream.get_final_completion().choices[0]
    assert "tool_calls.function.arguments.done" in names
    assert final.finish_reason == "tool_calls"
    # Another batch may choose other letters, where two are as likely.
    assert [call.function.name for call in final.message.tool_calls] == ["weather.get"]
    jsonschema.validate(json.loads(final.message.tool_calls[0].function.arguments), SCHEMA)
