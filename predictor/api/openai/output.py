"""What a chat's answer must look like: its form, `tools` and `tool_choice`.

Source: https://platform.openai.com/docs/guides/function-calling
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from predictor.api.chat.fields import continues_last
from predictor.api.chat.wishes import CHOICE, Choice, make_wish, tool_named
from predictor.api.openai.answer_form import read_answer_form
from predictor.api.openai.types import ChatCompletionRequest
from predictor.chat.prompting import Conversation
from predictor.chat.tools import Tool, read_tools
from predictor.errors import InvalidRequest
from predictor.generation.chat import ChatRequest


def read_chat(body: ChatCompletionRequest) -> ChatRequest:
    """What a chat request asks for.

    Raises:
        InvalidRequest: a field is malformed, or two contradict each other.
    """
    tools = read_tools(body.tools)
    choice = _read_choice(body.tool_choice, tools)
    parallel = body.parallel_tool_calls is not False
    shown, wish = make_wish(tools, choice, read_answer_form(body), parallel=parallel)
    return ChatRequest(_conversation(body, shown), wish, body.thinking_budget)


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
    return continues_last(body.messages)


def _read_choice(value: Any, tools: Sequence[Tool]) -> Choice:
    if value in (None, "auto", "none", "required"):
        return value or "auto"
    function = value.get("function") if isinstance(value, Mapping) else None
    if not isinstance(function, Mapping) or value.get("type") != "function":
        raise InvalidRequest(
            f'{CHOICE} must be "none", "auto", "required" or '
            '{"type": "function", "function": {"name": ...}}',
            param=CHOICE,
        )
    return tool_named(function.get("name"), tools)
