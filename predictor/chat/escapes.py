"""Escapes in quoted texts, as Python and JSON have them, told as JSON."""

from __future__ import annotations

import json
import re

MORE = -1
"""In place of where something ends: more text is needed."""
_ESCAPE = re.compile(r"\\(?:u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|x[0-9a-fA-F]{2}|[0-7]{1,3}|[^uUx0-7])", re.DOTALL)
_CUT_ESCAPE = re.compile(r"\\(?:u[0-9a-fA-F]{0,3}|U[0-9a-fA-F]{0,7}|x[0-9a-fA-F]?|[0-7]{1,2})?\Z")
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "a": "\a", "v": "\v", "\n": ""}
_HIGH, _LOW = re.compile("[\ud800-\udbff]"), re.compile(r"\\u[dD][c-fC-F][0-9a-fA-F]{2}")


def take_escape(text: str, at: int) -> tuple[str, int]:
    """JSON of the escape that begins here, and where it ends; `MORE` where that isn't there yet."""
    found = _ESCAPE.match(text, at)
    if found is None or (found[0][1] in "01234567" and found.end() == len(text) and len(found[0]) < 4):
        return ("", MORE) if _CUT_ESCAPE.match(text, at) else (json_text("\\"), at + 1)
    character = _character(found[0])
    if _HIGH.match(character):
        low = _LOW.match(text, found.end())
        if low is None and len(text) < found.end() + 6 and "\\u".startswith(text[found.end() :][:2]):
            return "", MORE
        if low is not None:
            pair = character + _character(low[0])
            return json_text(pair.encode("utf-16", "surrogatepass").decode("utf-16")), low.end()
    return json_text(character), found.end()


def _character(escape: str) -> str:
    """The character of an escape as Python or JSON has it; one that neither has stands for itself."""
    kind = escape[1]
    if kind in "uUx":
        code = int(escape[2:], 16)
        return chr(code) if code < 0x110000 else escape
    if kind in "01234567":
        return chr(int(escape[1:], 8))
    if kind in "\\'\"/":
        return kind
    return _ESCAPED.get(kind, escape)


def unescaped(text: str) -> str:
    """A text without its escapes."""
    plain = _ESCAPE.sub(lambda found: _character(found[0]), text)
    return plain.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def json_text(text: str) -> str:
    """A text within JSON's quotes; lone surrogates, which no client could decode, are replaced."""
    return json.dumps(text.encode("utf-8", "replace").decode(), ensure_ascii=False)[1:-1]
