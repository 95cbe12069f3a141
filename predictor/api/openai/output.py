"""What a chat's answer must look like: its form, `tools` and `tool_choice`.

Source: https://platform.openai.com/docs/guides/function-calling
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from predictor.api.openai.answer_form import read_answer_form
from predictor.api.openai.types import ChatCompletionRequest
from predictor.chat.tool_calls import call_grammar, calls_grammar, text_or_calls_grammar
from predictor.chat.tools import CALL_START, Tool, read_tools
from predictor.errors import InvalidRequest
from predictor.structured.compiler import ConstraintCompiler, MakeConstraint

CHOICE = "tool_choice"


@dataclass(frozen=True, slots=True)
class OutputForm:
    """What the answers of a request must look like.

    Attributes:
        tools: shown to the model; their calls are read from its answers.
        make_constraint: makes the constraint of one answer, None where answers are free.
    """

    tools: tuple[Tool, ...] = ()
    make_constraint: MakeConstraint | None = None


async def read_output_form(body: ChatCompletionRequest, compiler: ConstraintCompiler) -> OutputForm:
    """The form that a chat request asks for.

    Raises:
        InvalidRequest: a field is malformed, two contradict each other, or a schema or grammar can't be used.
    """
    form = read_answer_form(body)
    answer = None if form is None else form.grammar
    tools = read_tools(body.tools)
    choice = _read_choice(body.tool_choice, tools)
    if choice == "none" or not tools:
        return OutputForm((), None if answer is None else await compiler.whole(answer))
    if form is not None and not form.is_json:
        raise _invalid('can\'t be used with tools, unless tool_choice is "none"', form.grammar.param)
    parallel = body.parallel_tool_calls is not False
    if isinstance(choice, Tool):
        make = await compiler.whole(calls_grammar([choice], parallel=False))
    elif choice == "required":
        make = await compiler.whole(calls_grammar(tools, parallel=parallel))
    elif answer is not None:
        make = await compiler.whole(text_or_calls_grammar(answer, tools, parallel=parallel))
    else:
        make = await compiler.after(CALL_START, call_grammar(tools), once=not parallel)
    return OutputForm(tuple(tools), make)


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
