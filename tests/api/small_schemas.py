"""Fifty small JSON schemas, each with an end within a few dozen tokens."""

from __future__ import annotations

from typing import Any

LEAVES: list[dict[str, Any]] = [
    {"type": "string", "maxLength": 8},
    {"type": "string", "minLength": 3, "maxLength": 5},
    {"type": "string", "pattern": "^[A-Z]{3}-[0-9]{2}$"},
    {"type": "string", "format": "date"},
    {"type": "string", "format": "ipv4"},
    {"type": "string", "format": "uuid"},
    {"enum": ["red", "green", "blue"]},
    {"enum": [1, "two", None, {"three": 3}]},
    {"const": "fixed \u00e9"},
    {"type": "boolean"},
    {"type": "null"},
    {"type": "integer", "minimum": 0, "maximum": 120},
    {"type": "integer", "exclusiveMinimum": -3, "exclusiveMaximum": 3},
    {"type": "integer", "minimum": 0, "maximum": 50, "multipleOf": 5},
    {"type": "number", "minimum": 0, "maximum": 1},
    {"type": ["integer", "null"], "minimum": 0, "maximum": 9},
    {"anyOf": [{"type": "boolean"}, {"enum": ["maybe"]}]},
    {"allOf": [{"type": "integer", "minimum": 1}, {"maximum": 6}]},
]


def an_object(properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
        **more,
    }


SCHEMAS: list[dict[str, Any]] = [
    *(an_object({"value": leaf}) for leaf in LEAVES),
    *({"type": "array", "items": leaf, "minItems": 1, "maxItems": 2} for leaf in LEAVES),
    an_object({"name": LEAVES[0], "age": LEAVES[11], "colour": LEAVES[6]}),
    an_object({"place": an_object({"city": LEAVES[0], "zone": LEAVES[12]}), "open": LEAVES[9]}),
    an_object(
        {"a": {"$ref": "#/$defs/digit"}, "b": {"$ref": "#/$defs/digit"}}, **{"$defs": {"digit": LEAVES[15]}}
    ),
    an_object({'with "quotes"': LEAVES[9], "with \u00e9": LEAVES[9], "with\nline": LEAVES[9]}),
    an_object(
        {"list": {"type": "array", "items": an_object({"x": LEAVES[12]}), "minItems": 2, "maxItems": 2}}
    ),
    {"type": "array", "prefixItems": [LEAVES[9], LEAVES[6]], "items": False, "minItems": 2},
    {"type": "object", "properties": {"only": LEAVES[9]}, "additionalProperties": False},
    {"type": "array", "maxItems": 0},
    {"anyOf": [an_object({"ok": {"const": True}}), an_object({"error": LEAVES[0]})]},
    an_object(
        {"tree": {"$ref": "#/$defs/node"}},
        **{"$defs": {"node": an_object({"v": LEAVES[12], "kids": {"type": "array", "maxItems": 0}})}},
    ),
    an_object(
        {
            "matrix": {
                "type": "array",
                "items": {"type": "array", "items": LEAVES[12], "maxItems": 2},
                "maxItems": 2,
            }
        }
    ),
    an_object({"title": LEAVES[1], "tags": {"type": "array", "items": LEAVES[6], "maxItems": 3}}),
    LEAVES[6],
    LEAVES[13],
]
