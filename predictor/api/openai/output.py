"""What an answer must look like: `response_format`, `grammar`, `tools` and `tool_choice`.

Sources: https://platform.openai.com/docs/guides/structured-outputs and .../function-calling; `grammar` is
that of llama.cpp's server.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from predictor.api.openai.types import ChatCompletionRequest
from predictor.chat.format import AnswerWish, Conversation
from predictor.chat.tools import Tool, read_tools
from predictor.errors import InvalidRequest
from predictor.generation.chat import ChatRequest
from predictor.structured.compiler import ConstraintCompiler, MakeConstraint
from predictor.structured.grammar import Grammar, gbnf_grammar, json_schema_grammar

FORMAT = "response_format"
CHOICE = "tool_choice"


def read_chat(body: ChatCompletionRequest) -> ChatRequest:
    """What a chat request asks for.

    Raises:
        InvalidRequest: a field is malformed, or two contradict each other.
    """
    answer = _answer_grammar(body)
    tools = read_tools(body.tools)
    choice = _read_choice(body.tool_choice, tools)
    if choice == "none" or not tools:
        return ChatRequest(_conversation(body, ()), AnswerWish(answer), body.thinking_budget)
    if body.grammar is not None:
        raise _invalid('can\'t be used with tools, unless tool_choice is "none"', "grammar")
    wish = AnswerWish(
        answer,
        tool=choice if isinstance(choice, Tool) else None,
        required=choice == "required",
        parallel=body.parallel_tool_calls is not False and not isinstance(choice, Tool),
    )
    return ChatRequest(_conversation(body, tools), wish, body.thinking_budget)


def _conversation(body: ChatCompletionRequest, tools: Sequence[Tool]) -> Conversation:
    return Conversation(
        body.messages,
        tools,
        body.chat_template_kwargs or {},
        body.reasoning_effort,
        add_generation_prompt=body.add_generation_prompt is not False,
        continue_final=_continues(body),
    )


def _continues(body: ChatCompletionRequest) -> bool:
    """Whether the answer goes on with the last message: where asked for, and where it is an assistant's."""
    if body.continue_final_message and body.add_generation_prompt:
        raise InvalidRequest(
            "continue_final_message and add_generation_prompt exclude each other: leave one out",
            param="continue_final_message",
        )
    if body.continue_final_message is not None or body.add_generation_prompt is not None:
        return bool(body.continue_final_message)
    last = body.messages[-1] if body.messages else {}
    return last.get("role") == "assistant" and bool(last.get("content")) and not last.get("tool_calls")


async def read_grammar(text: str | None, compiler: ConstraintCompiler) -> MakeConstraint | None:
    """The maker of constraints for a request's `grammar`.

    Raises:
        InvalidRequest: the grammar can't be used.
    """
    return None if text is None else await compiler.whole(gbnf_grammar(text, "grammar"))


def _answer_grammar(body: ChatCompletionRequest) -> Grammar | None:
    grammar = _format_grammar(body.response_format)
    if body.grammar is None:
        return grammar
    if grammar is not None:
        raise InvalidRequest("grammar and response_format can't be used together", param="grammar")
    return gbnf_grammar(body.grammar, "grammar")


def _format_grammar(value: Any) -> Grammar | None:
    if value is None:
        return None
    kind = value.get("type") if isinstance(value, Mapping) else None
    if kind == "text":
        return None
    if kind == "json_object":
        # llama.cpp's server takes a schema here.
        return json_schema_grammar(value.get("schema", {"type": "object"}), FORMAT, strict=True)
    if kind != "json_schema":
        raise _invalid('must have the type "text", "json_object" or "json_schema"', FORMAT)
    wrapper = value.get("json_schema")
    if not isinstance(wrapper, Mapping) or not isinstance(wrapper.get("schema"), Mapping):
        raise _invalid('of type json_schema needs {"json_schema": {"name": ..., "schema": {...}}}', FORMAT)
    strict = wrapper.get("strict")
    if strict not in (None, True, False):
        raise _invalid("has a json_schema.strict that is neither true nor false", FORMAT)
    return json_schema_grammar(wrapper["schema"], FORMAT, strict=strict is True)


def _read_choice(value: Any, tools: Sequence[Tool]) -> str | Tool:
    """One of none, auto and required, or the tool that must be called."""
    if value in (None, "none", "auto"):
        return value or "auto"
    if not tools:
        raise _invalid("needs tools to choose from", CHOICE)
    if value == "required":
        return "required"
    function = value.get("function") if isinstance(value, Mapping) else None
    if not isinstance(function, Mapping) or value.get("type") != "function":
        raise _invalid(
            'must be "none", "auto", "required" or {"type": "function", "function": {"name": ...}}', CHOICE
        )
    name = function.get("name")
    for tool in tools:
        if tool.name == name:
            return tool
    raise _invalid(f"names the function {name!r}, which is not among the tools", CHOICE)


def _invalid(message: str, param: str) -> InvalidRequest:
    return InvalidRequest(f"{param} {message}", param=param)
