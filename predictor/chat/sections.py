"""Calls that are read as a whole: in another order or spelling than the form's, or as Python."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Collection
from typing import Any

from predictor.chat.values import NOTHING, literal

_NAME_KEYS = ("name", "tool_name", "function")
_ARGUMENT_KEYS = ("arguments", "parameters", "args")

NamedArguments = tuple[str, str]
"""The name of a function and the JSON text of its arguments."""


def json_calls(text: str, known: Collection[str] | None = None) -> list[NamedArguments] | None:
    """The calls in JSON objects or lists of them; None where the text is anything else.

    Args:
        text: what the model wrote.
        known: where given, only an object that names one of these functions and has arguments is a call.
    """
    decoder, calls, at = json.JSONDecoder(), list[NamedArguments](), 0
    while at < len(text):
        if text[at].isspace() or text[at] in ",;":
            at += 1
            continue
        try:
            value, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            return None
        for item in value if isinstance(value, list) else [value]:
            call = _json_call(item)
            is_other = known is not None and not (call and call[0] in known and _has_arguments(item))
            if call is None or is_other:
                return None
            calls.append(call)
    return calls or None


def _json_call(item: Any) -> NamedArguments | None:
    if not isinstance(item, dict):
        return None
    if isinstance(item.get("function"), dict):
        item = item["function"]
    name = next((item[key] for key in _NAME_KEYS if isinstance(item.get(key), str)), None)
    arguments: Any = next((item[key] for key in _ARGUMENT_KEYS if key in item), {})
    if name is None and len(item) == 1:
        name, arguments = next(iter(item.items()))
    if isinstance(arguments, str):
        arguments = literal(arguments)
    if name is None or not isinstance(arguments, dict):
        return None
    return name, json.dumps(arguments, ensure_ascii=False)


def _has_arguments(item: Any) -> bool:
    return any(key in item for key in _ARGUMENT_KEYS)


_CALL = re.compile(r"\s*,?\s*([\w./:@-]+)\(")
_KEYWORD = re.compile(r"\s*,?\s*([^\s=,()]+)\s*=\s*")
_TEXT_END = re.compile(r"\s*(?:\)\s*(?:\Z|,\s*[\w./:@-]+\()|,\s*[^\s=,()'\"]+\s*=)")


def python_calls(text: str) -> list[NamedArguments] | None:
    """The calls in `name(key=value, ...), ...`; None where the text is anything else.

    Texts may hold line breaks and quotes, as templates write them without escapes: a text ends at the quote
    that an argument or the call's end follows.
    """
    text = text.strip()
    calls: list[NamedArguments] = []
    at = 0
    while at < len(text):
        head = _CALL.match(text, at)
        if head is None:
            return None
        members: dict[str, Any] = {}
        at = head.end()
        while (key := _KEYWORD.match(text, at)) is not None:
            value, end = _python_value(text, key.end())
            if value is NOTHING:
                return None
            members[key[1]] = value
            at = end
        closing = re.compile(r"\s*\)").match(text, at)
        if closing is None:
            return None
        calls.append((head[1], json.dumps(members, ensure_ascii=False)))
        at = closing.end()
    return calls or None


def _python_value(text: str, at: int) -> tuple[Any, int]:
    if text[at : at + 1] in ("'", '"'):
        return _python_text(text, at)
    # The shortest text up to a comma or bracket that is a value.
    for end in re.finditer(r"[,)]|\Z", text[at:]):
        value = literal(text[at : at + end.start()])
        if value is not NOTHING:
            return value, at + end.start()
    return NOTHING, at


def _python_text(text: str, at: int) -> tuple[Any, int]:
    quote = text[at]
    end = text.find(quote, at + 1)
    while end >= 0:
        if _TEXT_END.match(text, end + 1):
            return _unescaped(text[at : end + 1]), end + 1
        end = text.find(quote, end + 1)
    return NOTHING, at


def _unescaped(quoted: str) -> str:
    """A Python text; one that isn't Python is taken as it stands."""
    if "\\" in quoted:
        try:
            value = ast.literal_eval(quoted.replace("\n", "\\n"))
        except (ValueError, SyntaxError):
            return quoted[1:-1]
        return value if isinstance(value, str) else quoted[1:-1]
    return quoted[1:-1]
