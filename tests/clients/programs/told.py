"""What every program here has in common: the tools, what they were called with, and how it is told."""

from __future__ import annotations

import json
import sys
from typing import Any

URL, MODEL = sys.argv[1], sys.argv[2]
QUESTION = "What is the weather in Paris and in Rome, and what is 1 + 2?"
CALLS: list[tuple[str, dict[str, Any]]] = []


def weather(city: str) -> str:
    """The weather in a city."""
    CALLS.append(("weather", {"city": city}))
    return f"It is sunny in {city}."


def add(a: int, b: int) -> str:
    """The sum of two numbers."""
    CALLS.append(("add", {"a": a, "b": b}))
    return str(a + b)


FUNCTIONS = {"weather": weather, "add": add}
SCHEMAS = {
    "weather": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "add": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"],
        "additionalProperties": False,
    },
}


def tell(text: str | None) -> None:
    """Print what came of it."""
    print(json.dumps({"calls": CALLS, "text": text or ""}))
