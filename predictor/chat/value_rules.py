"""Rules for values that a JSON schema allows, in notations other than JSON.

The walk through the schema is here; how texts, lists and objects are written is each notation's own
(`predictor.chat.python_rules`, `predictor.chat.raw_rules`). Keywords that no rule is made of are collected,
none is dropped in silence.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from predictor.chat.rules import RuleWriter
from predictor.chat.schema_parts import exists, given, merged, only, significant, without
from predictor.chat.schemas import JSON_KINDS, KINDS, is_open_object, kinds, pointer_key, resolved
from predictor.chat.text_limits import KEYWORDS
from predictor.chat.tools import Tool
from predictor.errors import InvalidRequest
from predictor.structured.grammar import SAYS_NOTHING, inline_schema

PARAM = "tools"
NUMBER_KEYWORDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_MOST_VALUES = 4_000
_MOST_LEVELS = 64
_OF_KINDS: Mapping[str, tuple[str, ...]] = {
    "string": KEYWORDS,
    "number": NUMBER_KEYWORDS,
    "integer": NUMBER_KEYWORDS,
    "array": ("items", "prefixItems", "minItems", "maxItems"),
    "object": ("properties", "required", "additionalProperties"),
}
_HANDLED = frozenset({"type", "enum", "const", "anyOf", "oneOf", "allOf", "$ref"}).union(*_OF_KINDS.values())
_WITHOUT_EFFECT = (("uniqueItems", False), ("minProperties", 0), ("minContains", 0), ("nullable", False))


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value stands.

    Attributes:
        end: what is written behind it.
        allowed: the types by which the reader tells it; empty where it doesn't.
        among: the types that may be written here.
    """

    end: str = ""
    allowed: frozenset[str] = frozenset()
    among: frozenset[str] = KINDS


@dataclass(frozen=True, slots=True)
class Member:
    """A member of an object, written with its key."""

    key: str
    rule: str
    is_required: bool


WriteMember = Callable[[str, str | None, Any, str], str]


class ValueRules(ABC):
    """Writes the rules of one tool's arguments.

    Args:
        writer: takes the rules.
        tool: whose parameters are the root of all references.
        name: what the names of rules begin with.

    Attributes:
        not_enforced: JSON pointers to the keywords that were passed over.
        root: the schema that references point into.
    """

    def __init__(self, writer: RuleWriter, tool: Tool, name: str) -> None:
        self.not_enforced: list[str] = []
        self._writer = writer
        self._rules = writer.rules
        self.root = tool.parameters
        self._strict = tool.strict
        self._name = name
        self._references: dict[tuple[str, Place], str] = {}
        self._values = self._depth = 0

    def value(self, schema: Any, pointer: str, name: str, place: Place) -> str:
        """A part of a rule: a value that the schema allows, and the end of its place.

        Args:
            schema: of the value.
            pointer: to the schema.
            name: for rules of this value's own.
            place: where it stands.

        Raises:
            InvalidRequest: a reference leads nowhere, or the schema is too complex.
        """
        self._values += 1
        if self._values > _MOST_VALUES or self._depth > _MOST_LEVELS:
            raise InvalidRequest(f"a schema in {PARAM} is too complex at {pointer[:200]}", param=PARAM)
        self._depth += 1
        rule = self._value(schema, pointer, name, place)
        self._depth -= 1
        return rule

    def _value(self, schema: Any, pointer: str, name: str, place: Place) -> str:
        if schema is False:
            self.not_enforced.append(pointer)
        node: Mapping[str, Any] = schema if isinstance(schema, Mapping) else {}
        if isinstance(node.get("$ref"), str):
            if not significant(node) - {"$ref"}:
                return self._referenced(node["$ref"], place)
            node = self._merged([self._target(node["$ref"]), without(node, "$ref")], pointer)
        if isinstance(node.get("allOf"), list):
            node = self._merged([without(node, "allOf"), *(self._plain(n) for n in node["allOf"])], pointer)
        self.not_enforced += [f"{pointer}/{key}" for key in ("$ref", "allOf") if key in node]
        self._pass_over_others(node, pointer)
        choices = given(node)
        if choices is not None:
            return self._choices(node, choices, pointer, name, place)
        for key in ("anyOf", "oneOf"):
            if isinstance(node.get(key), list):
                return self._alternatives(node, key, pointer, name, place)
        return self._of_kinds(node, pointer, name, place)

    def json(self, name: str, schema: Mapping[str, Any], pointer: str) -> None:
        """A rule of its own for what a schema allows in JSON."""
        self._rules[name] = inline_schema(schema, PARAM, strict=self._strict)
        self._writer.pointers[name] = pointer

    # References and combinations.

    def _referenced(self, reference: str, place: Place) -> str:
        name = self._references.get((reference, place))
        if name is None:
            name = self._references[reference, place] = f"{self._name}_r{len(self._references)}"
            target = self._target(reference)
            self._rules[name] = ""  # Kept here, so that a schema may refer to itself.
            self._rules[name] = self.value(target, reference[1:], f"{name}_", place)
        return name

    def _target(self, reference: str) -> Mapping[str, Any]:
        if reference == "#":
            return self.root
        target = resolved({"$ref": reference}, self.root)
        if not target and not exists(reference, self.root):
            raise InvalidRequest(f"the reference {reference!r} in {PARAM} leads nowhere", param=PARAM)
        return target

    def _plain(self, schema: Any) -> Mapping[str, Any]:
        schema = schema if isinstance(schema, Mapping) else {}
        return (
            self._merged([self._target(schema["$ref"]), without(schema, "$ref")], "")
            if "$ref" in schema
            else schema
        )

    def _merged(self, schemas: Sequence[Mapping[str, Any]], pointer: str) -> Mapping[str, Any]:
        whole, left = merged(schemas)
        self.not_enforced += [f"{pointer}/{key}" for key in left]
        return whole

    def _alternatives(self, node: Mapping[str, Any], key: str, pointer: str, name: str, place: Place) -> str:
        others = without(node, key)
        options = node[key]
        if key == "oneOf" and not self._are_disjoint(options):
            self.not_enforced.append(f"{pointer}/{key}")
        parts = []
        for i, option in enumerate(options):
            inner = f"{pointer}/{key}/{i}"
            if significant(others):
                option = self._merged([others, self._plain(option)], inner)
            if not place.among.isdisjoint(kinds(option, self.root) or KINDS):
                parts.append(self.value(option, inner, f"{name}_{i}", place))
        return f"({' | '.join(parts)})" if parts else self._anything(place)

    def _are_disjoint(self, options: Sequence[Any]) -> bool:
        choices = [given(option) for option in options]
        if all(choice is not None for choice in choices):
            values = [repr(value) for choice in choices for value in choice or ()]
            return len(set(values)) == len(values)
        seen: frozenset[str] = frozenset()
        for option in options:
            found = kinds(option, self.root)
            if not found or found & seen:
                return False
            seen |= found
        return True

    def _choices(
        self, node: Mapping[str, Any], choices: Sequence[Any], pointer: str, name: str, place: Place
    ) -> str:
        allowed = kinds({"type": node["type"]}, self.root) if "type" in node else KINDS
        fitting = [choice for choice in choices if JSON_KINDS[type(choice)] & allowed & place.among]
        self.not_enforced += [f"{pointer}/{key}" for key in node if key in _LIMITS]
        written = dict.fromkeys(text for choice in fitting for text in self._texts_of(choice, place))
        if not written:
            self.not_enforced.append(f"{pointer}/{'const' if 'const' in node else 'enum'}")
            return self._of_kinds(without(node, "const", "enum"), pointer, name, place)
        return f"({' | '.join(self._writer.literal(text + place.end) for text in written)})"

    def _pass_over_others(self, node: Mapping[str, Any], pointer: str) -> None:
        for key, value in node.items():
            if key not in _HANDLED and key not in SAYS_NOTHING and (key, value) not in _WITHOUT_EFFECT:
                self.not_enforced.append(f"{pointer}/{pointer_key(key)}")

    # Values of each type.

    def _of_kinds(self, node: Mapping[str, Any], pointer: str, name: str, place: Place) -> str:
        given = kinds(only(node, "type"), self.root)
        if not given <= KINDS:
            unknown = ", ".join(sorted(given - KINDS))
            raise InvalidRequest(
                f"the type {unknown!r} at {pointer} in {PARAM} is none of JSON's", param=PARAM
            )
        if not given and not any(key in node for keys in _OF_KINDS.values() for key in keys):
            return self._anything(place)
        wanted = (given or KINDS) & place.among
        wanted -= {"integer"} if "number" in wanted else set()
        parts = [self._of_kind(kind, node, pointer, f"{name}_{kind[0]}", place) for kind in sorted(wanted)]
        if not parts:
            raise InvalidRequest(f"the schema at {pointer} in {PARAM} allows no value", param=PARAM)
        return parts[0] if len(parts) == 1 else f"({' | '.join(parts)})"

    def _of_kind(self, kind: str, node: Mapping[str, Any], pointer: str, name: str, place: Place) -> str:
        if kind == "string":
            return self._text(name, node, pointer, place)
        end = self._writer.literal(place.end)
        if kind in ("integer", "number"):
            limits = only(node, *NUMBER_KEYWORDS)
            rule = name if limits else f"any_{kind}"
            self.json(rule, {"type": kind, **limits}, pointer)
            return f"{rule} {end}"
        if kind == "array":
            return self._list(name, node, pointer, place)
        if kind == "object":
            return self._object(name, node, pointer, place)
        # With the end, or it would be cut off from a text that begins in the same way.
        return f"({' | '.join(self._writer.literal(word + place.end) for word in _WORDS[kind])})"

    def members(
        self, name: str, node: Mapping[str, Any], pointer: str, write: WriteMember
    ) -> tuple[list[Member], str | None]:
        """The members of an object in their order, and a rule for any other; None where there may be none."""
        properties = node.get("properties")
        properties = properties if isinstance(properties, Mapping) else {}
        required = node.get("required")
        listed = required if isinstance(required, list) else ()
        needed = frozenset(key for key in listed if isinstance(key, str))
        members = []
        for k, (key, schema) in enumerate(properties.items()):
            inner = f"{name}_{k}"
            self._rules[inner] = write(inner, key, schema, f"{pointer}/properties/{pointer_key(key)}")
            members.append(Member(key, inner, key in needed))
        self.not_enforced += [f"{pointer}/required" for key in sorted(needed) if key not in properties]
        if not is_open_object(node):
            return members, None
        other = node.get("additionalProperties", True)
        self._rules[f"{name}x"] = write(f"{name}x", None, other, f"{pointer}/additionalProperties")
        return members, f"{name}x"

    # What notations differ in.

    @abstractmethod
    def _text(self, name: str, node: Mapping[str, Any], pointer: str, place: Place) -> str:
        """A text, and the end of its place."""

    @abstractmethod
    def _texts_of(self, value: Any, place: Place) -> list[str]:
        """How one value may be written; none where it can't be."""

    @abstractmethod
    def _anything(self, place: Place) -> str:
        """Any value, and the end of its place."""

    @abstractmethod
    def _list(self, name: str, node: Mapping[str, Any], pointer: str, place: Place) -> str:
        """A list, and the end of its place."""

    @abstractmethod
    def _object(self, name: str, node: Mapping[str, Any], pointer: str, place: Place) -> str:
        """An object, and the end of its place."""

    def _place_of(self, schema: Any, end: str = "") -> Place:
        return replace(Place(end), allowed=kinds(schema, self.root))


_WORDS = {"boolean": ("true", "false", "True", "False"), "null": ("null", "None")}
_LIMITS = frozenset().union(*_OF_KINDS.values())
