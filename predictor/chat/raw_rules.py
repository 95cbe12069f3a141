"""Rules for values in notations whose texts stand between marks as they are."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

from predictor.chat.nested_rules import NestedRules
from predictor.chat.python_rules import PythonRules
from predictor.chat.rules import RuleWriter
from predictor.chat.schemas import KINDS, kinds
from predictor.chat.text_limits import text_limits
from predictor.chat.tools import Tool
from predictor.chat.value_rules import Member, Place, ValueRules
from predictor.chat.values import read_value
from predictor.structured.grammar import SAYS_NOTHING
from predictor.structured.leniency import schema_nodes

# Texts that may be read as values of these types, where the schema allows them beside texts.
_LOOKS: Mapping[str, str] = {
    "integer": r"[-+.0-9](?s:.*)",
    "number": r"[-+.0-9](?s:.*)",
    "boolean": "true|false|True|False",
    "null": "null|None",
    "array": r"[\[(](?s:.*)",
    "object": r"\{(?s:.*)",
}
_QUOTED = r"""~(/\s*("(?s:.*)"|'(?s:.*)')\s*/)"""
_NO_CDATA = r"~(/<!\[CDATA\[(?s:.*)/)"
_SCALARS = frozenset({"string", "integer", "number", "boolean", "null"})
_COMBINING = frozenset({"type", "anyOf", "oneOf"})
_BARE_KEY = r"[^\s{}\[\],:\"<>]+"
_MOST_IN_ANY_ORDER = 60


class RawRules(ValueRules):
    """Texts that end at a mark, and are told from other values by what they look like."""

    def value(self, schema: Any, pointer: str, name: str, place: Place) -> str:
        """See `ValueRules`."""
        allowed = kinds(schema, self.root)
        if "string" in allowed & place.among and _is_loose(schema, allowed):
            return self._writer.until(f"{name}_text", place.end)
        return super().value(schema, pointer, name, place)

    def _text(self, name: str, node: Mapping[str, Any], pointer: str, place: Place) -> str:
        terminals, left = text_limits(node)
        self.not_enforced += [f"{pointer}/{key}" for key in left]
        others = (place.allowed or KINDS) - {"string"}
        if others:
            looks = dict.fromkeys(_LOOKS[kind] for kind in sorted(others))
            terminals += [_QUOTED, *(f"~(/\\s*({look})\\s*/)" for look in looks)]
        if not terminals:
            return self._writer.until(f"{name}_text", place.end)
        return self._limited(f"{name}_text", terminals, place)

    def _limited(self, name: str, terminals: Sequence[str], place: Place) -> str:
        """A text that matches all of some terminals, and the end of its place."""
        return self._writer.limited(name, terminals, place.end)

    def _texts_of(self, value: Any, place: Place) -> list[str]:
        texts = [value] if isinstance(value, str) else [json.dumps(value, ensure_ascii=False), repr(value)]
        return [text for text in texts if place.end not in text and self._is_read_as(text, value, place)]

    def _is_read_as(self, text: str, value: Any, place: Place) -> bool:
        read = read_value(text, place.allowed)
        return type(read) is type(value) and read == value

    def _anything(self, place: Place) -> str:
        return self._writer.until(f"{self._name}_any", place.end)


class TaggedRules(RawRules):
    """Values between tags: lists and objects as JSON, or as Python.

    Args:
        python: whether lists and objects are Python's.
    """

    def __init__(self, writer: RuleWriter, tool: Tool, name: str, *, python: bool) -> None:
        super().__init__(writer, tool, name)
        self._python = PythonRules(writer, tool, f"{name}_p")
        self._python.not_enforced = self.not_enforced
        self._is_python = python

    def _limited(self, name: str, terminals: Sequence[str], place: Place) -> str:
        plain = self._writer.limited(name, [*terminals, _NO_CDATA], place.end)
        quoted = self._writer.limited(f"{name}_c", terminals, f"]]>{place.end}")
        return f'({plain} | "<![CDATA[" {quoted})'

    def _list(self, name: str, node: Mapping[str, Any], pointer: str, place: Place) -> str:
        return self._compound(name, {**node, "type": "array"}, pointer, place)

    def _object(self, name: str, node: Mapping[str, Any], pointer: str, place: Place) -> str:
        return self._compound(name, {**node, "type": "object"}, pointer, place)

    def _compound(self, name: str, node: Mapping[str, Any], pointer: str, place: Place) -> str:
        end = self._writer.literal(place.end)
        definitions = {key: self.root[key] for key in _DEFINITIONS if key in self.root}
        whole = {**definitions, **node}
        if self._is_python or _refers_elsewhere(whole):
            return f"{self._python.value(node, pointer, f'{name}p', Place())} {end}"
        self.json(name, whole, pointer)
        return f"{name} {end}"


class ElementRules(NestedRules, RawRules):
    """Values as elements.

    Args:
        prefix: what stands before each tag's `<`.
    """

    def __init__(self, writer: RuleWriter, tool: Tool, name: str, prefix: str) -> None:
        super().__init__(writer, tool, name)
        self._prefix = prefix

    def _item(self, name: str, schema: Any, pointer: str) -> str:
        return self._element("item", schema, pointer, name)

    def _element(self, key: str, schema: Any, pointer: str, name: str) -> str:
        opening, closing = f"{self._prefix}<{key}>", f"{self._prefix}</{key}>"
        inner = self.value(schema, pointer, f"{name}v", self._place_of(schema, closing))
        return f"{self._writer.literal(opening)} {inner}"

    def _list_of(
        self, name: str, fixed: Sequence[str], item: str | None, counts: tuple[int, int | None], place: Place
    ) -> str:
        return f"{self.sequence(name, fixed, item, counts, '')} {self._writer.literal(place.end)}"

    def _member(self, name: str, key: str | None, schema: Any, pointer: str) -> str:
        if key is not None:
            return self._element(key, schema, pointer, name)
        if isinstance(schema, Mapping) and set(schema) - SAYS_NOTHING:
            self.not_enforced.append(pointer)
        prefix = self._writer.literal(self._prefix)
        self._rules["any_element"] = (
            f"{prefix} /<[^<>\\/]+>/ (any_element+ | /[^\\]<]*/) {prefix} /<\\/[^<>]+>/"
        )
        return "any_element"

    def _object_of(self, name: str, members: Sequence[Member], extra: str | None, place: Place) -> str:
        parts = [member.rule if member.is_required else f"{member.rule}?" for member in members]
        parts += [f"{extra}*"] if extra else []
        return f"{' '.join(parts)} {self._writer.literal(place.end)}".strip() or '""'

    def members_of(self, schema: Mapping[str, Any]) -> str:
        """The arguments of a call, one element after the other."""
        return self._object(self._name, schema, "", Place())


class BareKeyRules(NestedRules):
    """Objects with bare keys, and texts between marks of their own.

    Args:
        mark: stands before and behind each text.
    """

    def __init__(self, writer: RuleWriter, tool: Tool, name: str, mark: str) -> None:
        super().__init__(writer, tool, name)
        self._mark = mark

    def _text(self, name: str, node: Mapping[str, Any], pointer: str, place: Place) -> str:
        terminals, left = text_limits(node)
        self.not_enforced += [f"{pointer}/{key}" for key in left]
        if not terminals:
            return self._any_text()
        return f"{self._writer.literal(self._mark)} {self._writer.limited(name, terminals, self._mark)}"

    def _any_text(self) -> str:
        self._writer.until("quoted_end", self._mark)
        self._rules["quoted_text"] = f"{self._writer.literal(self._mark)} quoted_end"
        return "quoted_text"

    def _any_key(self) -> str:
        self._rules["quoted_key"] = f"{self._any_text()} | /{_BARE_KEY}/"
        return "quoted_key"

    def _texts_of(self, value: Any, place: Place) -> list[str]:
        text = self._written(value)
        return [] if text is None else [text]

    def _written(self, value: Any) -> str | None:
        match value:
            case str():
                return None if self._mark in value else f"{self._mark}{value}{self._mark}"
            case list():
                items = [self._written(item) for item in value]
                return None if None in items else f"[{','.join(filter(None, items))}]"
            case dict():
                pairs = [(self._key(key), self._written(item)) for key, item in value.items()]
                if any(key is None or item is None for key, item in pairs):
                    return None
                return f"{{{','.join(f'{key}:{item}' for key, item in pairs)}}}"
        return json.dumps(value)

    def _key(self, key: str) -> str | None:
        is_bare = re.fullmatch(r'[^{}\[\],:"<>]+', key) and key == key.strip()
        return key if is_bare else self._written(key)

    def _anything(self, place: Place) -> str:
        text, key = self._any_text(), self._any_key()
        self._rules["quoted_value"] = (
            f'{text} | /-?[0-9][0-9.eE+-]*/ | "true" | "false" | "null" | "None" | "True" | "False"'
            ' | "[" (quoted_value ("," quoted_value)*)? "]"'
            f' | "{{" ({key} ":" quoted_value ("," {key} ":" quoted_value)*)? "}}"'
        )
        return "quoted_value"

    def _item(self, name: str, schema: Any, pointer: str) -> str:
        return self.value(schema, pointer, name, Place())

    def _list_of(
        self, name: str, fixed: Sequence[str], item: str | None, counts: tuple[int, int | None], place: Place
    ) -> str:
        return f'"[" {self.sequence(name, fixed, item, counts, _COMMA)} "]"'

    def _member(self, name: str, key: str | None, schema: Any, pointer: str) -> str:
        value = self.value(schema, pointer, f"{name}v", Place())
        written = None if key is None else self._key(key)
        if written is None:
            return f'{self._any_key()} ":" {value}'
        return f"{self._writer.literal(f'{written}:')} {value}"

    def _object_of(self, name: str, members: Sequence[Member], extra: str | None, place: Place) -> str:
        """Templates sort the members, so any order is allowed, but each of them once only."""
        if len(members) > _MOST_IN_ANY_ORDER:
            self.not_enforced.append("/required")
            any_member = " | ".join([*(member.rule for member in members), *([extra] if extra else [])])
            return f'"{{" (({any_member}) ("," ({any_member}))*)? "}}"'
        needed = [f"bit_set({k})" for k, member in enumerate(members) if member.is_required]
        ends = f'"" %if {reduce(lambda one, two: f"and({one}, {two})", needed)}' if needed else '""'
        first = [] if needed else ['""']
        more = [ends]
        for k, member in enumerate(members):
            first.append(f"{member.rule} {name}_more::{1 << k:#x}")
            more.append(f'"," {member.rule} {name}_more::set_bit({k}) %if bit_clear({k})')
        if extra:
            first.append(f"{extra} {name}_more::0x0")
            more.append(f'"," {extra} {name}_more::_')
        self._rules[f"{name}_more::_"] = " | ".join(more)
        return f'"{{" ({" | ".join(first)}) "}}"'


_COMMA = '","'
_DEFINITIONS = ("$defs", "definitions")


def _refers_elsewhere(schema: Mapping[str, Any]) -> bool:
    """Whether a schema has references to other places than its definitions."""
    places = tuple(f"#/{key}/" for key in _DEFINITIONS)
    return any(not str(node.get("$ref", places[0])).startswith(places) for _, node in schema_nodes(schema))


def _is_loose(schema: Any, allowed: frozenset[str]) -> bool:
    """Whether any text is as good as another, whatever it is read as."""
    if not allowed <= _SCALARS or not isinstance(schema, Mapping):
        return False
    if set(schema) - SAYS_NOTHING - _COMBINING:
        return False
    options = [*schema.get("anyOf", ()), *schema.get("oneOf", ())]
    return all(_is_loose(option, kinds(option, {}) or KINDS) for option in options)
