"""Values that models write in another notation than JSON, read with the help of a tool's schema."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from typing import Any

_MAX_REFERENCES = 16
_JSON_KINDS: dict[type, frozenset[str]] = {
    str: frozenset({"string"}),
    bool: frozenset({"boolean"}),
    int: frozenset({"integer", "number"}),
    float: frozenset({"number"}),
    list: frozenset({"array"}),
    dict: frozenset({"object"}),
    type(None): frozenset({"null"}),
}


def property_schema(schema: Any, key: str, root: Mapping[str, Any]) -> Any:
    """The schema of an object's member, {} where there is none."""
    schema = resolved(schema, root)
    members = schema.get("properties")
    if isinstance(members, Mapping) and key in members:
        return members[key]
    for branch in _branches(schema):
        found = property_schema(branch, key, root)
        if found:
            return found
    extra = schema.get("additionalProperties")
    return extra if isinstance(extra, Mapping) else {}


def item_schema(schema: Any, root: Mapping[str, Any]) -> Any:
    """The schema of a list's items, {} where there is none."""
    schema = resolved(schema, root)
    items = schema.get("items")
    if isinstance(items, Mapping):
        return items
    return next((found for branch in _branches(schema) if (found := item_schema(branch, root))), {})


def resolved(schema: Any, root: Mapping[str, Any]) -> Mapping[str, Any]:
    """A schema with the references at its top followed."""
    for _ in range(_MAX_REFERENCES):
        if not isinstance(schema, Mapping):
            return {}
        reference = schema.get("$ref")
        if not isinstance(reference, str) or not reference.startswith("#/"):
            return schema
        target: Any = root
        for part in reference[2:].split("/"):
            target = (
                target.get(part.replace("~1", "/").replace("~0", "~"))
                if isinstance(target, Mapping)
                else None
            )
        schema = target
    return {}


def kinds(schema: Any, root: Mapping[str, Any], depth: int = 0) -> frozenset[str]:
    """JSON's types that a schema allows, as far as it says so; empty where it doesn't."""
    schema = resolved(schema, root)
    given = schema.get("type")
    if isinstance(given, str):
        return frozenset({given})
    if isinstance(given, list):
        return frozenset(filter(lambda kind: isinstance(kind, str), given))
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if isinstance(values, list):
        return frozenset().union(*(_JSON_KINDS.get(type(value), frozenset()) for value in values))
    if depth < _MAX_REFERENCES:
        return frozenset().union(*(kinds(branch, root, depth + 1) for branch in _branches(schema)))
    return frozenset()


def _branches(schema: Mapping[str, Any]) -> list[Any]:
    branches: list[Any] = []
    for key in ("anyOf", "oneOf", "allOf"):
        found = schema.get(key)
        branches += found if isinstance(found, list) else []
    return branches


def read_value(text: str, allowed: frozenset[str]) -> Any:
    """The value of a bare text: what the schema's types make of it, a text where nothing fits."""
    if allowed == {"string"}:
        return text
    value = literal(text)
    if value is NOTHING:
        return text
    fits = not allowed or _JSON_KINDS.get(type(value), frozenset()) & allowed
    if not fits and "string" in allowed:
        return text
    return value


NOTHING = object()
"""Told apart from None, which is a value."""


def literal(text: str) -> Any:
    """The value that a text is in JSON, else in Python; `NOTHING` where it is neither."""
    text = text.strip()
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        value = ast.literal_eval(text)
        json.dumps(value)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return _mixed(text)
    return value


_WORDS = {"None": "null", "True": "true", "False": "false"}
_WORD = re.compile(r'"(?:[^"\\]|\\.)*"|\b(None|True|False)\b')


def _mixed(text: str) -> Any:
    """JSON with Python's words in it."""
    try:
        return json.loads(_WORD.sub(lambda found: _WORDS.get(found[1], found[0]), text))
    except (ValueError, RecursionError):
        return NOTHING


def from_bare_keys(text: str, quote: str) -> str:
    """JSON of an object with bare keys, and texts between `quote`."""
    pieces = text.split(quote)
    written = []
    for i, piece in enumerate(pieces):
        if i % 2:
            written.append(json.dumps(piece, ensure_ascii=False))
            continue
        piece = re.sub(r"(?<=[{,])\s*([^\s{}\[\],:\"]+)\s*:", lambda found: json.dumps(found[1]) + ":", piece)
        written.append(re.sub(r"\b(None|True|False)\b", lambda found: _WORDS[found[1]], piece))
    return "".join(written)


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
        members[key] = _element(inner, prefix, property_schema(schema, key, root), root)
    return members


def _element(text: str, prefix: str, schema: Any, root: Mapping[str, Any]) -> Any:
    allowed = kinds(schema, root)
    children = _children(text, prefix)
    if children and (allowed == {"array"} or (not allowed and all(key == "item" for key, _ in children))):
        items = item_schema(schema, root)
        return [_element(inner, prefix, items, root) for _, inner in children]
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
    while (opening := re.compile(re.escape(prefix) + r"<([^<>/]+)>").match(text, at)) is not None:
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
