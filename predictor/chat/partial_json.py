"""JSON that was cut off, such as the arguments of a call in an answer that ended with `length`."""

from __future__ import annotations

import json
import re
from typing import Any

_DANGLING = re.compile(r'(?:,\s*|\s*:\s*|(?:^|(?<=[{,]))\s*"(?:[^"\\]|\\.)*"\s*:?\s*)\Z')
_CUT_ESCAPE = re.compile(r"\\(?:u[0-9a-fA-F]{0,3})?\Z")
_CUT_WORD = re.compile(r"(?<=[\[:,\s])(?:t|tr|tru|f|fa|fal|fals|n|nu|nul|-|-?\d+(?:\.|[\d.]*[eE][+-]?))\Z")


def complete_object(text: str) -> dict[str, Any]:
    """The object that a cut text had begun, as far as it can be told; {} where nothing can."""
    text = text.strip()
    if not text.startswith("{"):
        return {}
    open_brackets, in_string = _state(text)
    if in_string:
        whole = _CUT_ESCAPE.sub("", text) + '"'
        done = _parsed(whole + _closers(open_brackets))
        if done is not None:
            return done
        text = whole
    for pattern in (_CUT_WORD, _DANGLING, _DANGLING):
        text = pattern.sub("", text)
        done = _parsed(text + _closers(open_brackets))
        if done is not None:
            return done
    return {}


def _state(text: str) -> tuple[list[str], bool]:
    """The brackets that are open at the end, and whether it is inside of a string."""
    open_brackets: list[str] = []
    in_string = escaped = False
    for character in text:
        if escaped:
            escaped = False
        elif in_string:
            escaped = character == "\\"
            in_string = character != '"'
        elif character == '"':
            in_string = True
        elif character in "{[":
            open_brackets.append(character)
        elif character in "}]" and open_brackets:
            open_brackets.pop()
    return open_brackets, in_string


def _closers(open_brackets: list[str]) -> str:
    return "".join("}" if bracket == "{" else "]" for bracket in reversed(open_brackets))


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
