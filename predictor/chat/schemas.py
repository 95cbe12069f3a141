"""Questions to JSON schemas: what they say of a member, of items, of types."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

_MAX_REFERENCES = 16
_MAX_ALTERNATIVES = 1000
JSON_KINDS: dict[type, frozenset[str]] = {
    str: frozenset({"string"}),
    bool: frozenset({"boolean"}),
    int: frozenset({"integer", "number"}),
    float: frozenset({"number"}),
    list: frozenset({"array"}),
    dict: frozenset({"object"}),
    type(None): frozenset({"null"}),
}
KINDS = frozenset({"string", "integer", "number", "boolean", "null", "array", "object"})


def count(value: Any) -> int | None:
    """A keyword's value as a count; None where it is none."""
    return int(value) if isinstance(value, int | float) else None


def pointer_key(key: str) -> str:
    """A key as a part of a JSON pointer."""
    return key.replace("~", "~0").replace("/", "~1")


def property_schema(schema: Any, key: str, root: Mapping[str, Any]) -> Any:
    """The schema of an object's member, {} where there is none."""
    extra: Any = None
    for node in _alternatives(schema, root):
        members = node.get("properties")
        if isinstance(members, Mapping) and members.get(key):
            return members[key]
        extra = node.get("additionalProperties") if extra is None else extra
    return extra if isinstance(extra, Mapping) else {}


def is_open_object(schema: Mapping[str, Any]) -> bool:
    """Whether an object is held to have other members than those that its schema names."""
    extra = schema.get("additionalProperties")
    return extra not in (None, False) if schema.get("properties") else extra is not False


def moved(schema: Any, place: str) -> Any:
    """A schema with its references as they are where it stands at a place of another one."""
    if isinstance(schema, list):
        return [moved(item, place) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    return {
        key: f"{place}{value[1:]}"
        if key == "$ref" and isinstance(value, str) and value.startswith("#")
        else moved(value, place)
        for key, value in schema.items()
    }


def item_schema(schema: Any, root: Mapping[str, Any]) -> Any:
    """The schema of a list's items, {} where there is none."""
    items = (node.get("items") for node in _alternatives(schema, root))
    return next((item for item in items if isinstance(item, Mapping) and item), {})


def resolved(schema: Any, root: Mapping[str, Any]) -> Mapping[str, Any]:
    """A schema with the references at its top followed."""
    for _ in range(_MAX_REFERENCES):
        if not isinstance(schema, Mapping):
            return {}
        reference = schema.get("$ref")
        if reference == "#":
            return root
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


def kinds(schema: Any, root: Mapping[str, Any]) -> frozenset[str]:
    """JSON's types that a schema allows, as far as it says so; empty where it doesn't."""
    found: set[str] = set()
    for node in _alternatives(schema, root, beyond=lambda node: not _own_kinds(node)):
        found |= _own_kinds(node)
    return frozenset(found)


def _own_kinds(schema: Mapping[str, Any]) -> frozenset[str]:
    given = schema.get("type")
    if isinstance(given, str):
        return frozenset({given})
    if isinstance(given, list):
        return frozenset(kind for kind in given if isinstance(kind, str))
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if isinstance(values, list):
        return frozenset().union(*(JSON_KINDS.get(type(value), frozenset()) for value in values))
    return frozenset()


def _alternatives(
    schema: Any,
    root: Mapping[str, Any],
    beyond: Callable[[Mapping[str, Any]], bool] = lambda node: True,
) -> Iterator[Mapping[str, Any]]:
    """A schema and those that it is combined of, each once, as a schema may refer to itself.

    Args:
        schema: the first.
        root: what references point into.
        beyond: whether those that a schema is combined of count, too.
    """
    waiting = deque([schema])
    seen: set[int] = set()
    while waiting and len(seen) < _MAX_ALTERNATIVES:
        node = resolved(waiting.popleft(), root)
        if id(node) in seen:
            continue
        seen.add(id(node))
        yield node
        if not beyond(node):
            continue
        for key in ("anyOf", "oneOf", "allOf"):
            found = node.get(key)
            waiting += found if isinstance(found, list) else []
