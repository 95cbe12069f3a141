"""What the scripted model says to agents, and the tools that it calls."""

from __future__ import annotations

from typing import Any

from scripted_model import Script, Turn

THOUGHT, TEXT = "I need the weather first.", "Let me look."
LAST = "It is sunny in Paris and in Rome."
PLAIN = "Hello! How can I help you today?"
PARIS, SUM, ROME = {"city": "Paris"}, {"a": 1, "b": 2}, {"city": "Rome"}
CALLS = [("weather", PARIS), ("add", SUM), ("weather", ROME)]
"""The first alone, the other two in one turn."""

SCRIPT = Script(
    turns={0: Turn(TEXT, THOUGHT, CALLS[:1]), 1: Turn(calls=CALLS[1:])},
    last=Turn(LAST, "Now I know."),
    plain=Turn(PLAIN),
)


def weather(city: str) -> str:
    """The weather in a city."""
    return f"It is sunny in {city}."


def add(a: int, b: int) -> str:
    """The sum of two numbers."""
    return str(a + b)


FUNCTIONS: dict[str, Any] = {"weather": weather, "add": add}
SCHEMAS: dict[str, Any] = {
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
QUESTION = "What is the weather in Paris and in Rome, and what is 1 + 2?"
