"""What a chat's answer is held to: its form, and which tools it may or must call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from predictor.chat.format import AnswerWish
from predictor.chat.tools import Tool
from predictor.errors import InvalidRequest
from predictor.structured.grammar import Grammar

CHOICE = "tool_choice"

Choice = Literal["auto", "none", "required"] | Tool
"""Whether tools may, must not or must be called, or the one that must be."""


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """The form of an answer.

    Attributes:
        grammar: what it is held to.
        is_json: whether it is always JSON.
    """

    grammar: Grammar
    is_json: bool


def make_wish(
    tools: Sequence[Tool], choice: Choice, form: AnswerForm | None, *, parallel: bool
) -> tuple[Sequence[Tool], AnswerWish]:
    """The tools to show, and what answers are held to.

    Args:
        tools: those of the request.
        choice: what it says about calls.
        form: of a text, None where it is free.
        parallel: whether an answer may have several calls.

    Raises:
        InvalidRequest: the form excludes calls, or a call is wanted and there are no tools.
    """
    answer = None if form is None else form.grammar
    if not tools and choice not in ("auto", "none"):
        raise InvalidRequest(f"{CHOICE} needs tools to choose from", param=CHOICE)
    if choice == "none" or not tools:
        return (), AnswerWish(answer)
    if form is not None and not form.is_json:
        param = form.grammar.param
        raise InvalidRequest(f'{param} can\'t be used with tools, unless {CHOICE} is "none"', param=param)
    tool = choice.name if isinstance(choice, Tool) else None
    wish = AnswerWish(answer, tool, required=choice == "required", parallel=parallel and tool is None)
    return tools, wish


def tool_named(name: object, tools: Sequence[Tool]) -> Tool:
    """The tool that a choice names.

    Raises:
        InvalidRequest: there is none.
    """
    for tool in tools:
        if tool.name == name:
            return tool
    shown = str(name)[:80]
    raise InvalidRequest(f"{CHOICE} names the function {shown!r}, which is not among the tools", param=CHOICE)
