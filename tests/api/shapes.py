"""Holds what the server sends to the types of the providers' own clients: nothing missing or unknown."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pydantic

DOCUMENTED = (".store",)
"""In the documentation's examples, though the client's types leave it out."""


def exactly(kind: Any, value: Any) -> Any:
    """The value as one of the client's types, all of whose required fields it has and no others."""
    read = pydantic.TypeAdapter(kind).validate_python(value)
    unknown = [name for name in _unknown(read, "") if not name.endswith(DOCUMENTED)]
    assert not unknown, unknown
    return read


def _unknown(value: Any, where: str) -> Iterator[str]:
    if isinstance(value, pydantic.BaseModel):
        yield from (f"{where}.{name}" for name in value.model_extra or {})
        for name in type(value).model_fields:
            yield from _unknown(getattr(value, name), f"{where}.{name}")
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from _unknown(item, f"{where}[{i}]")


def named_events(text: str) -> list[tuple[str, Any]]:
    """Name and JSON of each event of a stream; checks the framing on the way, and passes comments over."""
    *blocks, rest = text.split("\n\n")
    assert rest == ""
    events = []
    for block in blocks:
        if block.startswith(":"):
            continue
        first, second = block.split("\n")
        assert first.startswith("event: ")
        assert second.startswith("data: ")
        payload = json.loads(second[6:])
        assert payload["type"] == first[7:]
        events.append((first[7:], payload))
    return events
