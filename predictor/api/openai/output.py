"""What a chat's answer must look like: its form, `tools` and `tool_choice`.

Source: https://platform.openai.com/docs/guides/function-calling
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from predictor.api.openai.answer_form import read_answer_form
from predictor.api.openai.types import ChatCompletionRequest
from predictor.chat.format import AnswerWish
from predictor.chat.prompting import Conversation
from predictor.chat.tools import Tool, read_tools
from predictor.errors import InvalidRequest
from predictor.generation.chat import ChatRequest

CHOICE = "tool_choice"


def read_chat(body: ChatCompletionRequest) -> ChatRequest:
    """What a chat request asks for.

    Raises:
        InvalidRequest: a field is malformed, or two contradict each other.
    """
    form = read_answer_form(body)
    answer = None if form is None else form.grammar
    tools = read_tools(body.tools)
    choice = _read_choice(body.tool_choice, tools)
    if choice == "none" or not tools:
        return ChatRequest(_conversation(body, ()), AnswerWish(answer), body.thinking_budget)
    if form is not None and not form.is_json:
        raise _invalid('can\'t be used with tools, unless tool_choice is "none"', form.grammar.param)
    wish = AnswerWish(
        answer,
        tool=choice.name if isinstance(choice, Tool) else None,
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
        body.thinking_budget,
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
