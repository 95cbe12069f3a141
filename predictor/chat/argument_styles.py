"""Finds how a template writes the arguments of calls, from one rendering of known values."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from predictor.chat.comparing import between, common_end
from predictor.chat.form import (
    Arguments,
    ElementArguments,
    JsonArguments,
    PythonArguments,
    QuotedArguments,
    TaggedArguments,
)
from predictor.chat.python_literals import PythonReader

Span = tuple[int, int]

# A value of each kind that templates may write differently; the texts can't be mistaken for anything else.
VALUES: Mapping[str, Any] = {
    "zqkey": "zqvalue",
    "zqother": "zqword",
    "zqnumber": 7071,
    "zqlist": [7072, True],
    "zqobject": {"zqinner": 7073},
    "zqtrue": True,
}


def find_arguments(bodies: Sequence[str]) -> tuple[Arguments, list[Span]] | None:
    """The style of the arguments, and where they stand in the text behind each name."""
    spans = [_json_span(body) for body in bodies]
    if all(span is not None for span in spans):
        return JsonArguments(), [span for span in spans if span is not None]
    return _other_arguments(bodies)


def _json_span(body: str) -> Span | None:
    start = body.find("{")
    while start >= 0:
        try:
            value, end = json.JSONDecoder().raw_decode(body, start)
        except ValueError:
            start = body.find("{", start + 1)
            continue
        if value == VALUES:
            return start, end
        start = body.find("{", start + 1)
    return None


def _other_arguments(bodies: Sequence[str]) -> tuple[Arguments, list[Span]] | None:
    first = bodies[0]
    keys = list(VALUES)
    places = {key: first.find(key) for key in keys}
    if min(places.values()) < 0:
        return None
    order = sorted(keys, key=lambda key: places[key])
    before = first[: places[order[0]]]
    opening = first[places["zqkey"] + len("zqkey") : first.find("zqvalue")]
    if before.endswith("(") and opening.startswith("="):
        spans = [_python_span(body) for body in bodies]
        found = [span for span in spans if span is not None]
        return (PythonArguments(), found) if len(found) == len(bodies) else None
    if before.endswith("{") and opening.startswith(":"):
        ends = [_closing_brace(body) for body in bodies]
        return QuotedArguments(opening[1:]), [
            (body.find("{"), end) for body, end in zip(bodies, ends, strict=True)
        ]
    if f"</{order[0]}>" in first:
        return _elements(bodies, order)
    return _tagged(bodies, order)


def _python_span(body: str) -> Span | None:
    """From the opening bracket of a call to its closing one."""
    start = body.find("(")
    reader = PythonReader({}, "")
    _, taken = reader.take_last(body[start:])
    return (start, start + taken) if reader.is_done else None


def _closing_brace(body: str) -> int:
    depth = 0
    for i, character in enumerate(body):
        depth += (character == "{") - (character == "}")
        if character == "}" and depth == 0:
            return i + 1
    return len(body)


def _elements(bodies: Sequence[str], order: Sequence[str]) -> tuple[Arguments, list[Span]] | None:
    closing = f"</{order[0]}>"
    first = bodies[0]
    prefix = between(first, VALUES["zqkey"], "</zqkey>")
    spans = []
    for body in bodies:
        start = body.find(f"{prefix}<{order[0]}>")
        last = f"{prefix}</{order[-1]}>"
        spans.append((start, body.find(last) + len(last)))
    return (ElementArguments(prefix), spans) if closing in first else None


def _tagged(bodies: Sequence[str], order: Sequence[str]) -> tuple[Arguments, list[Span]] | None:
    first = bodies[0]
    written = {key: _written(first, key) for key in order}
    if any(span is None for span in written.values()):
        return None
    values = {key: span for key, span in written.items() if span is not None}
    openings: dict[str, bool | None] = {}
    for key in order:
        opening = first[first.find(key) + len(key) : values[key][0]]
        is_text = isinstance(VALUES[key], str)
        openings[opening] = is_text if openings.get(opening, is_text) == is_text else None
    first_key = first[: first.find(order[0])]
    next_key = first[values[order[0]][1] : first.find(order[1], values[order[0]][1])]
    key_start = common_end(first_key, next_key)
    value_end = next_key[: len(next_key) - len(key_start)]
    if value_end == "" or key_start == "":
        return None
    spans = []
    for body in bodies:
        start = body.find(key_start + order[0])
        last = _written(body, order[-1])
        if last is None:
            return None
        spans.append((start, last[1] + len(value_end.rstrip())))
    python = str(VALUES["zqlist"]) in first
    return TaggedArguments(key_start, openings, value_end, python), spans


def _written(body: str, key: str) -> Span | None:
    """Where the value of a key stands."""
    value = VALUES[key]
    forms = [value] if isinstance(value, str) else [json.dumps(value), str(value)]
    after_key = body.find(key) + len(key)
    for form in forms:
        at = body.find(form, after_key)
        if at >= 0:
            return at, at + len(form)
    return None
