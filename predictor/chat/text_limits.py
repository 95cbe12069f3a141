"""What a schema asks of a text, as terminals of a grammar: for texts that stand between marks as they are.

Sources of the formats: RFC 3339 (dates), RFC 1123 (names of hosts), RFC 9562 (UUIDs), and for email addresses
https://html.spec.whatwg.org/multipage/input.html#valid-e-mail-address.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from predictor.chat.schemas import count
from predictor.structured.grammar import lark_regex

_DATE = (
    r"[0-9]{4}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)"
    r"|02-(0[1-9]|[12][0-9]))"
)
_TIME = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_WORD = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_BYTE = r"(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
FORMATS: Mapping[str, str] = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f"{_DATE}T{_TIME}",
    "email": rf"{_WORD}(\.{_WORD})*@{_LABEL}(\.{_LABEL})*",
    "hostname": rf"{_LABEL}(\.{_LABEL})*",
    "ipv4": rf"{_BYTE}(\.{_BYTE}){{3}}",
    "uri": r"[A-Za-z][A-Za-z0-9+.-]*:[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]+",
    "uuid": r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}",
}
KEYWORDS = ("pattern", "minLength", "maxLength", "format")
_FLAGS = re.compile(r"\(\?[isu]+\)")
_ZERO_WIDTH = frozenset("bBAzZG<>")


def text_limits(schema: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Terminals that a text must match, all of them, and the keywords that none could be made of."""
    terminals: list[str] = []
    left: list[str] = []
    low, high = count(schema.get("minLength")) or 0, count(schema.get("maxLength"))
    if low or high is not None:
        terminals.append(f"/(?s:.){{{low},{'' if high is None else high}}}/")
    for key, made in (
        ("pattern", _search(schema["pattern"]) if isinstance(schema.get("pattern"), str) else None),
        ("format", FORMATS.get(str(schema.get("format")))),
    ):
        if made is not None:
            terminals.append(lark_regex(made))
        elif schema.get(key) is not None:
            left.append(key)
    return terminals, left


def _search(pattern: str) -> str | None:
    """A regular expression for the whole of a text in which `pattern` is found; None where there is none.

    llguidance has no anchors in terminals, so they are taken off where they stand at an end.
    """
    flags = _FLAGS.match(pattern)
    prefix = flags[0] if flags else ""
    alternatives = _alternatives(pattern[len(prefix) :])
    if alternatives is None:
        return None
    anything = "(?s:.*)"
    parts = []
    for core, from_start, to_end in alternatives:
        before, after = "" if from_start else anything, "" if to_end else anything
        parts.append(f"{before}(?:{prefix}{core}){after}")
    return "|".join(parts)


def _alternatives(pattern: str) -> list[tuple[str, bool, bool]] | None:
    """The alternatives at the top without their anchors, and which they had; None where others are."""
    found: list[tuple[str, bool, bool]] = []
    depth = start = at = 0
    from_start = to_end = False
    while at <= len(pattern):
        character = pattern[at : at + 1]
        if to_end and not (depth == 0 and character in ("|", "")):
            return None
        if depth == 0 and character in ("|", ""):
            found.append((pattern[start : at - to_end], from_start, to_end))
            start, from_start, to_end = at + 1, False, False
        elif character == "\\":
            if pattern[at + 1 : at + 2] in _ZERO_WIDTH or at + 1 == len(pattern):
                return None
            at += 1
        elif character == "[":
            at = _class_end(pattern, at)
        elif character in "()":
            depth += 1 if character == "(" else -1
        elif character == "^":
            if at != start or depth:
                return None
            start, from_start = at + 1, True
        elif character == "$":
            if depth:
                return None
            to_end = True
        at += 1
    return found


def _class_end(pattern: str, at: int) -> int:
    """Where the class of characters that begins here ends; others may be in it."""
    depth, place = 0, at
    while place < len(pattern):
        if pattern[place] == "\\":
            place += 1
        elif pattern[place] == "[":
            depth += 1
            # A bracket that comes first is a character.
            place += 1 if pattern[place + 1 : place + 2] == "^" else 0
            place += 1 if pattern[place + 1 : place + 2] == "]" else 0
        elif pattern[place] == "]":
            depth -= 1
            if depth == 0:
                return place
        place += 1
    return len(pattern)
