"""Calls that are read as a whole: in another order or spelling than the form's, or as Python."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from typing import Any

from predictor.chat.python_literals import PythonReader
from predictor.chat.values import literal

_NAME_KEYS = ("name", "tool_name", "function")
_ARGUMENT_KEYS = ("arguments", "parameters", "args")

Schemas = Mapping[str, Mapping[str, Any]]
"""Of the arguments of each function, by its name."""
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


_CALL = re.compile(r"\s*,?\s*([\w./:@-]+)(?=\()")


def python_calls(text: str, schemas: Schemas) -> list[NamedArguments] | None:
    """The calls in `name(key=value, ...), ...`; None where the text is anything else.

    Args:
        text: what the model wrote.
        schemas: of the arguments of each function.
    """
    text = text.rstrip()
    calls: list[NamedArguments] = []
    at = 0
    while at < len(text):
        head = _CALL.match(text, at)
        if head is None:
            return None
        reader = PythonReader(schemas.get(head[1], {}), "")
        arguments, taken = reader.take_last(text[head.end() :])
        if not reader.is_done:
            return None
        calls.append((head[1], arguments))
        at = head.end() + taken
    return calls or None
