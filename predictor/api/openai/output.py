"""What an answer must look like: `response_format`, `grammar`, `tools` and `tool_choice`.

Sources: https://platform.openai.com/docs/guides/structured-outputs and .../function-calling; `grammar` is
that of llama.cpp's server.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from predictor.api.openai.types import ChatCompletionRequest
from predictor.chat.tool_calls import call_grammar, calls_grammar, text_or_calls_grammar
from predictor.chat.tools import CALL_START, Tool, read_tools
from predictor.errors import InvalidRequest
from predictor.structured.compiler import ConstraintCompiler, MakeConstraint
from predictor.structured.grammar import Grammar, gbnf_grammar, json_schema_grammar

FORMAT = "response_format"
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
    answer = _answer_grammar(body)
    tools = read_tools(body.tools)
    choice = _read_choice(body.tool_choice, tools)
    if choice == "none" or not tools:
        return OutputForm((), None if answer is None else await compiler.whole(answer))
    if body.grammar is not None:
        raise _invalid('can\'t be used with tools, unless tool_choice is "none"', "grammar")
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
