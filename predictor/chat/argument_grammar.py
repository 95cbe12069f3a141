"""Grammars for the arguments of calls, in each of the notations that models have for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from predictor.chat.form import (
    CallForm,
    ElementArguments,
    JsonArguments,
    PythonArguments,
    QuotedArguments,
    TaggedArguments,
)
from predictor.chat.rules import RuleWriter
from predictor.chat.tools import Tool
from predictor.chat.values import item_schema, kinds, property_schema, resolved
from predictor.structured.grammar import MAX_DEPTH, inline_schema

PARAM = "tools"
_SCALARS = {"integer": "/-?[0-9]+/", "number": "/-?[0-9][0-9.eE+-]*/", "boolean": '("true" | "false")'}


class ArgumentWriter(RuleWriter):
    """Writes the rules of arguments."""

    def arguments(self, form: CallForm, index: int, tool: Tool) -> str:
        """A part of a rule: the arguments of the tool with this number.

        Raises:
            InvalidRequest: a schema can't be used.
        """
        match form.arguments:
            case JsonArguments():
                return self.json(index, tool)
            case TaggedArguments() as style:
                return self._tagged(index, tool, style)
            case PythonArguments():
                return self._python(index, tool)
            case QuotedArguments(quote):
                return self._quoted(f"q{index}", tool.parameters, tool.parameters, quote)
            case ElementArguments(prefix):
                return self._elements(f"e{index}", tool.parameters, tool.parameters, prefix)

    def json(self, index: int, tool: Tool) -> str:
        """As `arguments`, as one JSON object."""
        # Each schema is a document of its own, so that references in it keep their meaning.
        self.rules[f"arguments_{index}"] = inline_schema(tool.parameters, PARAM, strict=tool.strict)
        return f"arguments_{index}"

    def _tagged(self, index: int, tool: Tool, style: TaggedArguments) -> str:
        """Arguments in the order of the schema; those that aren't required may be missing."""
        parts = []
        members, required, is_open = _members(tool.parameters)
        for k, key in enumerate(members):
            schema = property_schema(tool.parameters, key, tool.parameters)
            name = f"argument_{index}_{k}"
            openings = self._openings(style, kinds(schema, tool.parameters))
            value = self._tagged_value(name, schema, tool, style)
            head = f"{self.literal(style.key_start + key)} ({openings})"
            self.rules[name] = f"{head} {value}"
            parts.append(name if key in required else f"{name}?")
        if is_open:
            self.until("open_value", style.value_end)
            openings = self._openings(style, frozenset())
            key = f'{self.literal(style.key_start)} /[^<>"\\n]{{1,256}}/'
            self.rules["open_argument"] = f"{key} ({openings}) open_value"
            parts.append("open_argument*")
        if not required:
            parts.append(r"/\n?/")  # Some templates leave a line for the arguments that there aren't.
        return " ".join(parts)

    def _openings(self, style: TaggedArguments, allowed: frozenset[str]) -> str:
        fits = [
            opening
            for opening, is_text in style.openings.items()
            if is_text is None or not allowed or ("string" in allowed if is_text else allowed != {"string"})
        ]
        return " | ".join(self.literal(opening) for opening in fits or style.openings)

    def _tagged_value(self, name: str, schema: Any, tool: Tool, style: TaggedArguments) -> str:
        allowed = kinds(schema, tool.parameters)
        end = self.literal(style.value_end)
        choices = resolved(schema, tool.parameters).get("enum")
        if isinstance(choices, list) and choices and all(isinstance(choice, str) for choice in choices):
            return f"({' | '.join(self.literal(choice) for choice in choices)}) {end}"
        is_free = not allowed or "string" in allowed or (style.python and allowed & {"array", "object"})
        if is_free:
            return self.until(f"{name}_text", style.value_end)
        self.rules[f"{name}_value"] = self._value(schema, tool)
        return (
            f'({name}_value | "True" | "False" | "None") {end}'
            if allowed & {"boolean", "null"}
            else (f"{name}_value {end}")
        )

    def _value(self, schema: Any, tool: Tool) -> str:
        definitions = {
            key: tool.parameters[key] for key in ("$defs", "definitions") if key in tool.parameters
        }
        return inline_schema({**definitions, **schema}, PARAM, strict=tool.strict)

    def _python(self, index: int, tool: Tool) -> str:
        members, required, is_open = _members(tool.parameters)
        self.rules["python_text"] = r"""/'(?s:[^'\\]|\\.)*'/ | /"(?s:[^"\\]|\\.)*"/"""
        self.rules["python_value"] = (
            'python_text | /-?[0-9][0-9.eE+-]*/ | "True" | "False" | "None" | "true" | "false" | "null"'
            ' | "[" (python_value (/, ?/ python_value)*)? "]"'
            ' | "{" (python_text /: ?/ python_value (/, ?/ python_text /: ?/ python_value)*)? "}"'
        )
        parts: list[tuple[str, bool]] = []
        for k, key in enumerate(members):
            schema = property_schema(tool.parameters, key, tool.parameters)
            allowed = kinds(schema, tool.parameters)
            value = "python_text" if allowed == {"string"} else "python_value"
            if len(allowed) == 1 and allowed <= {"integer", "number"}:
                value = _SCALARS[next(iter(allowed))]
            name = f"keyword_{index}_{k}"
            self.rules[name] = f"{self.literal(key + '=')} {value}"
            parts.append((name, key in required))
        if is_open:
            self.rules["keyword"] = '/[A-Za-z_][A-Za-z0-9_]*/ "=" python_value'
            return '"(" (keyword (/, ?/ keyword)*)? ")"'
        return f'"(" {self._separated(f"k{index}", parts, "/, ?/")} ")"'

    def _separated(self, name: str, parts: Sequence[tuple[str, bool]], separator: str) -> str:
        """The parts in their order, those that aren't required maybe missing, with separators between."""
        count = len(parts)
        self.rules[f"{name}_first_{count}"] = self.rules[f"{name}_more_{count}"] = '""'
        for k in range(count - 1, -1, -1):
            part, is_required = parts[k]
            first, more = f"{part} {name}_more_{k + 1}", f"{separator} {part} {name}_more_{k + 1}"
            self.rules[f"{name}_first_{k}"] = first if is_required else f"{first} | {name}_first_{k + 1}"
            self.rules[f"{name}_more_{k}"] = more if is_required else f"{more} | {name}_more_{k + 1}"
        return f"{name}_first_0"

    def _quoted(self, name: str, schema: Any, root: Mapping[str, Any], quote: str) -> str:
        """An object with bare keys; templates sort them, so any order is allowed, and any number."""
        self.until("quoted_end", quote)
        self.rules["quoted_text"] = f"{self.literal(quote)} quoted_end"
        self.rules["quoted_value"] = (
            'quoted_text | /-?[0-9][0-9.eE+-]*/ | "true" | "false" | "null" | "None" | "True" | "False"'
            ' | "[" (quoted_value ("," quoted_value)*)? "]"'
            ' | "{" (quoted_key ":" quoted_value ("," quoted_key ":" quoted_value)*)? "}"'
        )
        self.rules["quoted_key"] = 'quoted_text | /[^\\s{}\\[\\],:"<>]+/'
        members, _, is_open = _members(schema)
        pairs = []
        for k, key in enumerate(members):
            allowed = kinds(property_schema(schema, key, root), root)
            value = "quoted_text" if allowed == {"string"} else "quoted_value"
            if len(allowed) == 1:
                value = _SCALARS.get(next(iter(allowed)), value)
            self.rules[f"{name}_{k}"] = f"{self.literal(key + ':')} {value}"
            pairs.append(f"{name}_{k}")
        if is_open or not pairs:
            pairs.append('quoted_key ":" quoted_value' if is_open else "")
        options = " | ".join(filter(None, pairs))
        return f'"{{" (({options}) ("," ({options}))*)? "}}"' if options else '"{" "}"'

    def _elements(self, name: str, schema: Any, root: Mapping[str, Any], prefix: str, level: int = 0) -> str:
        """The members of an object, each an element; what isn't required may be missing."""
        members, required, is_open = _members(resolved(schema, root))
        parts = []
        for k, key in enumerate(members):
            inner = f"{name}_{k}"
            rule = self._element(inner, key, property_schema(schema, key, root), root, prefix, level)
            self.rules[inner] = rule
            parts.append(inner if key in required else f"{inner}?")
        if is_open and level < MAX_DEPTH:
            self.rules["any_element"] = (
                f"{self.literal(prefix)} /<[^<>\\/]+>/ (any_element+ | /[^\\]<]*/)"
                f" {self.literal(prefix)} /<\\/[^<>]+>/"
            )
            parts.append("any_element*")
        return " ".join(parts) or '""'

    def _element(
        self, name: str, key: str, schema: Any, root: Mapping[str, Any], prefix: str, level: int
    ) -> str:
        opening, closing = self.literal(f"{prefix}<{key}>"), self.literal(f"{prefix}</{key}>")
        allowed = kinds(schema, root)
        if allowed == {"object"} and level < MAX_DEPTH:
            return f"{opening} {self._elements(f'{name}o', schema, root, prefix, level + 1)} {closing}"
        if allowed == {"array"} and level < MAX_DEPTH:
            item = self._element(f"{name}i", "item", item_schema(schema, root), root, prefix, level + 1)
            self.rules[f"{name}l"] = item
            return f"{opening} {name}l* {closing}"
        value = _SCALARS.get(next(iter(allowed))) if len(allowed) == 1 else None
        if value is not None:
            return f"{opening} {value} {closing}"
        return f"{opening} {self.until(f'{name}_text', f'{prefix}</{key}>')}"


def _members(schema: Mapping[str, Any]) -> tuple[list[str], frozenset[str], bool]:
    """The keys of an object, which of them are required, and whether there may be others."""
    properties = schema.get("properties")
    keys = list(properties) if isinstance(properties, Mapping) else []
    required = schema.get("required")
    extra = schema.get("additionalProperties")
    is_open = extra not in (None, False) if keys else extra is not False
    return keys, frozenset(required if isinstance(required, list) else ()), is_open
