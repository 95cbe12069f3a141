"""Parts of JSON schemas, taken out and put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

from predictor.structured.grammar import SAYS_NOTHING


def merged(schemas: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], list[str]]:
    """One schema that says what all of some say, and the keywords of which they say two things."""
    whole: dict[str, Any] = {}
    left: list[str] = []
    for schema in schemas:
        for key, value in schema.items():
            known = whole.get(key)
            if key not in whole or key in SAYS_NOTHING or known == value:
                whole.setdefault(key, value)
            elif key == "required" and _are_names(known) and _are_names(value):
                whole[key] = list(dict.fromkeys([*known, *value]))
            elif key == "properties" and _are_apart(known, value):
                whole[key] = {**known, **value}
            else:
                left.append(key)
    return whole, left


def significant(schema: Mapping[str, Any]) -> set[str]:
    """The keywords that say something."""
    return {key for key in schema if key not in SAYS_NOTHING}


def given(schema: Any) -> list[Any] | None:
    """The values that a schema lists, None where it doesn't."""
    if not isinstance(schema, Mapping):
        return None
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    return values if isinstance(values, list) else None


def _are_names(value: Any) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _are_apart(one: Any, two: Any) -> TypeGuard[Mapping[str, Any]]:
    return isinstance(one, Mapping) and isinstance(two, Mapping) and not (one.keys() & two.keys())


def without(schema: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """All but some keywords."""
    return {key: value for key, value in schema.items() if key not in keys}


def only(schema: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """Some keywords, as far as they are there."""
    return {key: value for key, value in schema.items() if key in keys}


def exists(reference: str, root: Mapping[str, Any]) -> bool:
    """Whether a reference leads anywhere."""
    target: Any = root
    for part in reference.removeprefix("#/").split("/"):
        key = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(target, Mapping) or key not in target:
            return False
        target = target[key]
    return True
