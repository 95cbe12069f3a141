"""Values that models write in another notation than JSON, read with the help of a tool's schema."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from predictor.chat.literals import NOTHING, json_value
from predictor.chat.python_literals import python_value
from predictor.chat.schemas import JSON_KINDS, item_schema, kinds, property_schema


def read_value(text: str, allowed: frozenset[str]) -> Any:
    """The value of a bare text: what the schema's types make of it, a text where nothing fits."""
    if allowed == {"string"}:
        return text
    value = literal(text)
    if value is NOTHING:
        return text
    fits = not allowed or JSON_KINDS.get(type(value), frozenset()) & allowed
    if not fits and "string" in allowed:
        return text
    return value


def literal(text: str) -> Any:
    """The value that a text is in JSON, else in Python or both mixed; `NOTHING` where it is neither."""
    text = text.strip()
    value = json_value(text)
    return python_value(text) if value is NOTHING else value


def from_elements(text: str, prefix: str, schema: Any, root: Mapping[str, Any]) -> Any:
    """The object that nested elements make up.

    Args:
        text: `<key>value</key>` and so on, each tag with `prefix` before it.
        prefix: of the tags.
        schema: of the object, which tells what else than a text a value is.
        root: the schema that references point into.
    """
    members: dict[str, Any] = {}
    for key, inner in _children(text, prefix):
        members[key] = from_element(inner, prefix, property_schema(schema, key, root), root)
    return members


def from_element(text: str, prefix: str, schema: Any, root: Mapping[str, Any]) -> Any:
    """As `from_elements`, of what one element holds."""
    allowed = kinds(schema, root)
    children = [] if allowed == {"string"} else _children(text, prefix)
    if children and (allowed == {"array"} or (not allowed and all(key == "item" for key, _ in children))):
        items = item_schema(schema, root)
        return [from_element(inner, prefix, items, root) for _, inner in children]
    if children:
        return from_elements(text, prefix, schema, root)
    if not text and "string" not in allowed:
        empty: dict[str, Any] = {"array": [], "object": {}}
        return next((empty[kind] for kind in ("array", "object") if kind in allowed), None if allowed else "")
    return read_value(text, allowed)


def _children(text: str, prefix: str) -> list[tuple[str, str]]:
    """The elements that a text begins with, by name and inner text."""
    found: list[tuple[str, str]] = []
    at = 0
    while (opening := re.compile(re.escape(prefix) + r"<([^<>/][^<>]*)>").match(text, at)) is not None:
        name = opening[1]
        tag = re.compile(re.escape(prefix) + rf"<(/?){re.escape(name)}>")
        depth, end = 1, opening.end()
        while depth and (mark := tag.search(text, end)) is not None:
            depth += -1 if mark[1] else 1
            end = mark.end()
        if depth:
            return found
        found.append((name, text[opening.end() : mark.start()]))  # type: ignore[union-attr]
        at = end
    return found
