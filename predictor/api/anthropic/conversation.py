"""What a request of the Messages API asks for.

Source: https://docs.anthropic.com/en/api/messages
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from predictor.api.anthropic.content import read_messages
from predictor.api.anthropic.types import CountTokensRequest
from predictor.api.chat.fields import continues_last
from predictor.api.chat.passed_over import log_passed_over
from predictor.api.chat.wishes import CHOICE, AnswerForm, Choice, make_wish, tool_named
from predictor.chat.prompting import Conversation
from predictor.chat.tools import Tool, read_tools
from predictor.errors import InvalidRequest, ThreadsUnsupported
from predictor.generation.chat import ChatRequest
from predictor.structured.grammar import json_schema_grammar


def read_chat(body: CountTokensRequest) -> ChatRequest:
    """What a request asks for.

    Raises:
        InvalidRequest: a field is malformed, or two contradict each other.
        ThreadsUnsupported: the conversation is to be kept here.
    """
    if body.thread:
        # Anthropic's own client goes on without a thread where it is told so.
        raise ThreadsUnsupported(
            "thread is not supported, since this server stores no messages: send the whole conversation",
            param="thread",
        )
    messages = read_messages(body.system, body.messages)
    tools = _tools(body.tools)
    choice, parallel = _choice(body.tool_choice, tools)
    shown, wish = make_wish(tools, choice, _form(body), parallel=parallel)
    budget = body.thinking.budget_tokens if body.thinking and body.thinking.type == "enabled" else None
    conversation = Conversation(
        messages,
        shown,
        body.chat_template_kwargs or {},
        body.effort,
        continue_final=continues_last(messages),
    )
    return ChatRequest(conversation, wish, budget)


def _tools(value: Any) -> list[Tool]:
    if value is not None and not isinstance(value, list):
        raise _invalid("tools must be a list of objects", "tools")
    definitions: list[dict[str, Any]] = []
    others: list[str] = []
    for i, tool in enumerate(value or []):
        if not isinstance(tool, Mapping):
            raise _invalid(f"tools[{i}] must be an object", "tools")
        kind = tool.get("type")
        if kind not in (None, "custom"):
            others.append(str(kind))
            continue
        if not isinstance(tool.get("input_schema"), Mapping):
            raise _invalid(f"tools[{i}].input_schema must be a JSON schema of type object", "tools")
        function = {key: tool.get(key) for key in ("name", "description", "strict")}
        function["parameters"] = tool["input_schema"]
        definitions.append({"type": "function", "function": function})
    log_passed_over("tools", others)
    return read_tools(definitions)


_CHOICES: Mapping[str, Choice] = {"auto": "auto", "any": "required", "none": "none"}


def _choice(value: Any, tools: Sequence[Tool]) -> tuple[Choice, bool]:
    """Whether a tool must be called, and whether several may be."""
    if value is None:
        return "auto", True
    kind = value.get("type") if isinstance(value, Mapping) else None
    if kind == "tool":
        return tool_named(value.get("name"), tools), False
    if not isinstance(kind, str) or kind not in _CHOICES:
        raise _invalid(
            f'{CHOICE} must be {{"type": "auto"}}, "any", "none" or {{"type": "tool", "name": ...}}', CHOICE
        )
    return _CHOICES[kind], value.get("disable_parallel_tool_use") is not True


def _form(body: CountTokensRequest) -> AnswerForm | None:
    config = body.output_config
    param = "output_config.format" if config and config.format is not None else "output_format"
    value = config.format if config and config.format is not None else body.output_format
    if value is None:
        return None
    if not isinstance(value, Mapping) or value.get("type") != "json_schema":
        raise _invalid(f'{param} must be {{"type": "json_schema", "schema": {{...}}}}', param)
    return AnswerForm(json_schema_grammar(value.get("schema"), param, strict=False), is_json=True)


def _invalid(message: str, param: str) -> InvalidRequest:
    return InvalidRequest(message, param=param)
