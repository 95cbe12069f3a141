"""Values in other notations than JSON, read with a tool's schema."""

from __future__ import annotations

from typing import Any

import pytest

from predictor.chat.schemas import kinds, property_schema
from predictor.chat.values import from_elements, read_value

ROOT: dict[str, Any] = {
    "type": "object",
    "properties": {
        "text": {"type": "string"},
        "maybe": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "union": {"type": ["integer", "string"]},
        "choice": {"enum": ["a", 1]},
        "other": {"$ref": "#/$defs/n"},
        "loop": {"$ref": "#/properties/loop"},
    },
    "$defs": {"n": {"type": "number"}},
}


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("text", {"string"}),
        ("maybe", {"string", "null"}),
        ("union", {"integer", "string"}),
        ("choice", {"string", "integer", "number"}),
        ("other", {"number"}),
        ("loop", set()),
        ("nosuch", set()),
    ],
)
def test_the_types_that_a_schema_allows(key: str, expected: set[str]) -> None:
    assert kinds(property_schema(ROOT, key, ROOT), ROOT) == expected


@pytest.mark.parametrize(
    ("text", "allowed", "expected"),
    [
        ("12", {"string"}, "12"),
        ("12", {"integer"}, 12),
        ("12", set(), 12),
        ("12", {"string", "null"}, "12"),
        ("null", {"string", "null"}, None),
        ("True", {"boolean"}, True),
        ("{'a': [1, None]}", {"object"}, {"a": [1, None]}),
        ('{"a": None}', {"object"}, {"a": None}),
        ("{'a': true}", {"object"}, {"a": True}),
        ("'a' or 'b'", set(), "'a' or 'b'"),
        ("NaN", {"number"}, "NaN"),
        ("1e999", set(), "1e999"),
        ("Rome", {"integer"}, "Rome"),
        ("Rome", set(), "Rome"),
    ],
)
def test_bare_texts(text: str, allowed: set[str], expected: Any) -> None:
    assert read_value(text, frozenset(allowed)) == expected


def test_elements() -> None:
    root = {
        "properties": {
            "a": {"type": "array", "items": {"type": "integer"}},
            "e": {"type": "array", "items": {"type": "string"}},
            "o": {"type": "object", "properties": {"t": {"type": "string"}}},
            "s": {"type": "string"},
        }
    }
    text = "!<a>!<item>1!</item>!<item>2!</item>!</a>!<e>!</e>!<o>!<t>3!</t>!</o>!<s>!</s>!<u>true!</u>"
    assert from_elements(text, "!", root, root) == {"a": [1, 2], "e": [], "o": {"t": "3"}, "s": "", "u": True}
