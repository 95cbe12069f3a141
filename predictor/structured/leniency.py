"""Which keywords of a schema can't be enforced, and the schema without them.

Generated schemas are full of keywords that say little, such as bounds as wide as their type, and of patterns
with look-ahead. Where a schema isn't `strict` they are passed over, one by one, instead of failing the whole
request.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from itertools import combinations
from typing import Any

Problem = Callable[[str], str]
"""Why a grammar can't be compiled; "" where it can."""

_SCHEMA = "%json "
_DECODER = json.JSONDecoder()
_OPTIONS = "x-guidance"

# Keywords that bear on each other's cost are tried together, those that say least first to be dropped.
_GROUPS = (
    ("pattern", "format", "maxLength", "minLength"),
    ("maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum", "multipleOf"),
    ("maxItems", "minItems"),
    ("maxProperties", "minProperties"),
)
_TYPES = ("string", "number", "array", "object")
_ONE = frozenset(
    {
        "additionalItems",
        "additionalProperties",
        "contains",
        "else",
        "if",
        "items",
        "not",
        "propertyNames",
        "then",
        "unevaluatedItems",
        "unevaluatedProperties",
    }
)
_LISTS = frozenset({"allOf", "anyOf", "items", "oneOf", "prefixItems"})
_MAPS = frozenset({"$defs", "definitions", "dependentSchemas", "patternProperties", "properties"})


def has_lenient_schema(grammar: str) -> bool:
    """Whether a grammar holds a schema of which keywords may be passed over."""
    return any(_is_lenient(schema) for _, _, schema in _schemas(grammar))


def schema_of(grammar: str) -> dict[str, Any]:
    """The schema that a grammar holds, without options."""
    _, _, schema = next(_schemas(grammar))
    return {key: value for key, value in schema.items() if key != _OPTIONS}


def without_unenforceable(grammar: str, problem_of: Problem) -> tuple[str, list[str], list[str]]:
    """A grammar whose schemas lack the keywords that can't be enforced, where they aren't strict.

    Args:
        grammar: it can't be compiled as it stands.
        problem_of: tries a grammar.

    Returns:
        The grammar, the places of the keywords that were dropped, and of those that strict schemas keep.
    """
    found = list(_schemas(grammar))
    parts: list[str] = []
    dropped: list[str] = []
    kept: list[str] = []
    rest = 0
    for number, (start, end, schema) in enumerate(found):
        prefix = f"[{number}]" if len(found) > 1 else ""
        places = [prefix + place for place in _drop(schema, problem_of)]
        (dropped if _is_lenient(schema) else kept).extend(places)
        parts += [grammar[rest:start], json.dumps(schema)]
        rest = end
    return "".join([*parts, grammar[rest:]]), dropped, kept


def passed_over(grammar: str, warnings: list[str]) -> list[str]:
    """The places of keywords that llguidance says that it passed over.

    Args:
        grammar: as it was compiled.
        warnings: what the matcher's `get_grammar_warnings` says.
    """
    keywords: set[str] = set()
    formats: set[str] = set()
    for warning in warnings:
        if listed := re.search(r"Unimplemented keys: (\[.*?\])", warning):
            keywords.update(json.loads(listed[1]))
        elif unknown := re.match(r"Unknown format: (.*?)(?: \(\d+ times\))?$", warning):
            formats.add(unknown[1])
        elif warning.startswith("oneOf not fully supported"):
            keywords.add("oneOf")
    found = list(_schemas(grammar)) if keywords or formats else []
    places = []
    for number, (_, _, schema) in enumerate(found):
        prefix = f"[{number}]" if len(found) > 1 else ""
        for place, node in schema_nodes(schema):
            over = [key for key in node if key in keywords or (key == "format" and node[key] in formats)]
            places += [f"{prefix}{place}/{key}" for key in over]
    return places


def _schemas(grammar: str) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Start, end and value of each schema in a grammar; quoted texts can't hold one with options of ours."""
    at = grammar.find(_SCHEMA)
    while at >= 0:
        start = end = at + len(_SCHEMA)
        try:
            schema, end = _DECODER.raw_decode(grammar, start)
        except (ValueError, RecursionError):
            schema = None
        if isinstance(schema, dict) and _OPTIONS in schema:
            yield start, end, schema
        at = grammar.find(_SCHEMA, end)


def _is_lenient(schema: Mapping[str, Any]) -> bool:
    return schema[_OPTIONS].get("lenient") is True


def schema_nodes(schema: Any, place: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """A schema and all schemas in it, each with its JSON pointer."""
    waiting = [(place, schema)]
    while waiting:
        place, node = waiting.pop()
        if not isinstance(node, dict):
            continue
        yield place, node
        for key, value in node.items():
            inside = f"{place}/{_escaped(key)}"
            if key in _ONE:
                waiting.append((inside, value))
            if key in _LISTS and isinstance(value, list):
                waiting += [(f"{inside}/{i}", item) for i, item in enumerate(value)]
            if key in _MAPS and isinstance(value, dict):
                waiting += [(f"{inside}/{_escaped(name)}", item) for name, item in value.items()]


def _drop(schema: dict[str, Any], problem_of: Problem) -> list[str]:
    """Take out of a schema what can't be compiled by itself; returns the places."""
    dropped: list[str] = []
    for place, node in list(schema_nodes(schema)):
        for kind, group in zip(_TYPES, _GROUPS, strict=True):
            kind = "integer" if kind == "number" and node.get("type") == "integer" else kind
            dropped += [f"{place}/{key}" for key in _drop_of(node, kind, group, problem_of)]
        patterns = node.get("patternProperties")
        patterns = patterns if isinstance(patterns, dict) else {}
        for pattern in list(patterns):
            if _problem({"type": "object", "patternProperties": {pattern: {}}}, problem_of):
                del patterns[pattern]
                dropped.append(f"{place}/patternProperties/{_escaped(pattern)}")
    return dropped


def _drop_of(node: dict[str, Any], kind: str, group: tuple[str, ...], problem_of: Problem) -> tuple[str, ...]:
    """Take the fewest keywords of a group out of a node, so that the others can be compiled."""
    given = {key: node[key] for key in group if key in node}
    for count in range(len(given) + 1):
        for without in combinations(given, count):
            rest = {key: value for key, value in given.items() if key not in without}
            if not _problem({"type": kind, **rest}, problem_of):
                for key in without:
                    del node[key]
                return without
    return ()


def _problem(schema: Mapping[str, Any], problem_of: Problem) -> str:
    if len(schema) == 1:
        return ""
    options = {_OPTIONS: {"lenient": True}}
    problem = problem_of(f"start: {_SCHEMA}{json.dumps({**schema, **options})}")
    # Keywords that contradict each other are a mistake, and no limit of what can be enforced.
    return "" if "Unsatisfiable" in problem else problem


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")
