"""Grammars for answers in a model's own form, in llguidance's Lark-like syntax.

Source of the syntax: https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from predictor.chat.form import (
    AnswerForm,
    CallForm,
    ElementArguments,
    JsonArguments,
    Pattern,
    PythonArguments,
    QuotedArguments,
    TaggedArguments,
)
from predictor.chat.tools import Tool
from predictor.chat.values import item_schema, kinds, property_schema, resolved
from predictor.structured.grammar import MAX_DEPTH, Grammar, depth, inline_schema, is_costly

PARAM = "tools"
ControlTokens = Mapping[str, int]
"""Ids of the control tokens in a form's marks, by their text."""

_ID = r"/[A-Za-z0-9_-]{1,64}/"
_SPACE = r"/[ \n]{0,4}/"
_SCALARS = {"integer": "/-?[0-9]+/", "number": "/-?[0-9][0-9.eE+-]*/", "boolean": '("true" | "false")'}
_ANYTHING = r"/(?s:.*)/"


@dataclass(frozen=True, slots=True)
class Lazily:
    """What follows a trigger is held to a grammar; everything else is free."""

    trigger: str
    grammar: Grammar
    once: bool
    at_start: bool


class GrammarWriter:
    """Writes the grammars of one request.

    Args:
        form: how the model writes.
        tools: what it may call.
        control: the control tokens among the form's marks.
    """

    def __init__(self, form: AnswerForm, tools: Sequence[Tool], control: ControlTokens) -> None:
        self._form = form
        self._tools = tools
        self._control = control
        self._rules: dict[str, str] = {}
        for tool in tools:
            # As for every schema: refused before anything walks down into it.
            if depth(tool.parameters) > MAX_DEPTH:
                inline_schema(tool.parameters, PARAM, strict=tool.strict)

    # Whole answers.

    def calls(self, *, parallel: bool, in_thought: bool, may_think: bool) -> Grammar:
        """An answer that is a call, or one and more.

        Raises:
            InvalidRequest: a schema is too deep, or all together are too long.
        """
        return self._whole("calls", parallel, in_thought, may_think, None)

    def answer(self, answer: Grammar, *, in_thought: bool, may_think: bool) -> Grammar:
        """An answer that is what `answer` allows, behind a thought if there is one."""
        if not in_thought and not may_think and not self._text_marks()[0]:
            return answer
        return self._whole("text", False, in_thought, may_think, answer)

    def answer_or_calls(
        self, answer: Grammar, *, parallel: bool, in_thought: bool, may_think: bool
    ) -> Grammar:
        """An answer that is either what `answer` allows or calls."""
        return self._whole("text | calls", parallel, in_thought, may_think, answer)

    def _whole(
        self, what: str, parallel: bool, in_thought: bool, may_think: bool, answer: Grammar | None
    ) -> Grammar:
        lines = [f"start: {self._thought(in_thought=in_thought, may_think=may_think)} body"]
        lines.append(f"body: {what}")
        costly = False
        if "calls" in what:
            lines.append(f"calls: {self._calls(parallel=parallel)}")
            costly = any(is_costly(tool.parameters) for tool in self._tools)
        if answer is not None:
            before, after = self._text_marks()
            lines.append(f"text: {self._literal(before)} inner {self._literal(after)}")
            lines.append(re.sub(r"^start\s*:", "inner:", answer.text, count=1, flags=re.MULTILINE))
            costly = costly or answer.is_costly
        lines += [f"{name}: {rule}" for name, rule in self._rules.items()]
        return Grammar("\n".join(lines), PARAM if answer is None else answer.param, costly)

    def _text_marks(self) -> tuple[str, str]:
        channels = self._form.channels
        if channels is not None:
            return channels.texts[0] + channels.header_end, ""
        return self._form.content.start, ""

    def _thought(self, *, in_thought: bool, may_think: bool) -> str:
        channels = self._form.channels
        if channels is not None:
            if not channels.thoughts or not may_think:
                return ""
            self._until("thought_text", channels.ends[0])
            head = self._literal(channels.thoughts[0] + channels.header_end)
            self._rules["thought"] = f"{head} thought_text {self._literal(channels.opening)}"
            return "thought?"
        thought = self._form.thought
        if thought is None or not (in_thought or may_think):
            return _SPACE if self._form.thought else ""
        self._until("thought_text", thought.end.strip())
        if in_thought:
            return f"thought_text {_SPACE}"
        # Some models write the end alone where they don't think.
        start, end = self._literal(thought.start.strip()), self._literal(thought.end.strip())
        self._rules["thought"] = f"({start} thought_text | {end}) {_SPACE}"
        return f"{_SPACE} thought?"

    # Calls.

    def lazily(self, *, parallel: bool) -> Lazily | None:
        """What follows the trigger of calls; None where they have none.

        Raises:
            InvalidRequest: a schema is too deep, or all together are too long.
        """
        costly = any(is_costly(tool.parameters) for tool in self._tools)
        channels = self._form.channels
        if channels is not None:
            trigger = (channels.call[0] or "").strip()
            if not trigger or trigger == "to=":
                return None
            lines = [f"start: {self._channel_call(named=False)}"]
            lines += [f"{name}: {rule}" for name, rule in self._rules.items()]
            return Lazily(trigger, Grammar("\n".join(lines), PARAM, costly), not parallel, at_start=False)
        form = self._form.calls
        if form is None:
            return None
        head = "".join(part if part is not None else "\0" for part in form.head).lstrip()
        rest = _pattern(head.removeprefix(form.trigger))
        lines = [f"start: {self._calls(parallel=parallel, head=rest)}"]
        lines += [f"{name}: {rule}" for name, rule in self._rules.items()]
        grammar = Grammar("\n".join(lines), PARAM, costly)
        return Lazily(form.trigger, grammar, not parallel or form.is_bare, at_start=form.is_bare)

    def _calls(self, *, parallel: bool, head: Pattern | None = None) -> str:
        channels = self._form.channels
        if channels is not None:
            call = self._channel_call(named=True)
            if not parallel or not channels.several:
                return call
            between = "".join(channels.ends[:1]) + channels.opening
            return f"{call} ({self._literal(between)} {call})*"
        form = self._form.calls
        assert form is not None
        begin = ""
        if head is None:
            head = form.head
            if form.head and form.head[0] and form.head[0][0].isspace():
                begin, head = _SPACE, (form.head[0].lstrip(), *form.head[1:])
            if self._form.content.end:
                empty = self._form.content.start.strip() + self._form.content.end.strip()
                begin = f"({self._literal(empty)})? {begin}"
        call = self._call_rule(form)
        more = ""
        if parallel and form.between is not None:
            more = f" ({self._pattern(form.between)} {call})*"
        tail = form.tail
        if tail and tail[-1]:
            tail = (*tail[:-1], tail[-1].rstrip())
        return f"{begin} {self._pattern(head)} {call}{more} {self._pattern(tail)}"

    def _call_rule(self, form: CallForm) -> str:
        for i, tool in enumerate(self._tools):
            self._rules[f"call_{i}"] = (
                f"{self._literal(tool.name)} {self._pattern(form.middle)} {self._arguments(form, i, tool)}"
            )
        self._rules["call"] = " | ".join(f"call_{i}" for i in range(len(self._tools)))
        return "call"

    def _channel_call(self, *, named: bool) -> str:
        channels = self._form.channels
        assert channels is not None
        at = channels.call.index(None)
        before, after = channels.call[:at], channels.call[at + 1 :]
        for i, tool in enumerate(self._tools):
            head = f"{self._literal(tool.name)} {self._pattern(after)} {self._literal(channels.header_end)}"
            if channels.body is not None:
                body = channels.body
                inner = f"{self._pattern(body.head)} {self._literal(tool.name)} {self._pattern(body.middle)}"
                rest = f"{inner} {self._arguments(body, i, tool)} {self._pattern(body.tail)}"
            else:
                rest = self._json(i, tool)
            self._rules[f"call_{i}"] = f"{head} {rest}"
        self._rules["call"] = " | ".join(f"call_{i}" for i in range(len(self._tools)))
        return f"{self._pattern(before)} call" if named else "call"

    # Arguments.

    def _arguments(self, form: CallForm, index: int, tool: Tool) -> str:
        match form.arguments:
            case JsonArguments():
                return self._json(index, tool)
            case TaggedArguments() as style:
                return self._tagged(index, tool, style)
            case PythonArguments():
                return self._python(index, tool)
            case QuotedArguments(quote):
                return self._quoted(f"q{index}", tool.parameters, tool.parameters, quote)
            case ElementArguments(prefix):
                return self._elements(f"e{index}", tool.parameters, tool.parameters, prefix)

    def _json(self, index: int, tool: Tool) -> str:
        # Each schema is a document of its own, so that references in it keep their meaning.
        self._rules[f"arguments_{index}"] = inline_schema(tool.parameters, PARAM, strict=tool.strict)
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
            head = f"{self._literal(style.key_start + key)} ({openings})"
            self._rules[name] = f"{head} {value}"
            parts.append(name if key in required else f"{name}?")
        if is_open:
            self._until("open_value", style.value_end)
            openings = self._openings(style, frozenset())
            key = f'{self._literal(style.key_start)} /[^<>"\\n]{{1,256}}/'
            self._rules["open_argument"] = f"{key} ({openings}) open_value"
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
        return " | ".join(self._literal(opening) for opening in fits or style.openings)

    def _tagged_value(self, name: str, schema: Any, tool: Tool, style: TaggedArguments) -> str:
        allowed = kinds(schema, tool.parameters)
        end = self._literal(style.value_end)
        choices = resolved(schema, tool.parameters).get("enum")
        if isinstance(choices, list) and choices and all(isinstance(choice, str) for choice in choices):
            return f"({' | '.join(self._literal(choice) for choice in choices)}) {end}"
        is_free = not allowed or "string" in allowed or (style.python and allowed & {"array", "object"})
        if is_free:
            return self._until(f"{name}_text", style.value_end)
        self._rules[f"{name}_value"] = self._value(schema, tool)
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
        self._rules["python_text"] = r"""/'(?s:[^'\\]|\\.)*'/ | /"(?s:[^"\\]|\\.)*"/"""
        self._rules["python_value"] = (
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
            self._rules[name] = f"{self._literal(key + '=')} {value}"
            parts.append((name, key in required))
        if is_open:
            self._rules["keyword"] = '/[A-Za-z_][A-Za-z0-9_]*/ "=" python_value'
            return '"(" (keyword (/, ?/ keyword)*)? ")"'
        return f'"(" {self._separated(f"k{index}", parts, "/, ?/")} ")"'

    def _separated(self, name: str, parts: Sequence[tuple[str, bool]], separator: str) -> str:
        """The parts in their order, those that aren't required maybe missing, with separators between."""
        count = len(parts)
        self._rules[f"{name}_first_{count}"] = self._rules[f"{name}_more_{count}"] = '""'
        for k in range(count - 1, -1, -1):
            part, is_required = parts[k]
            first, more = f"{part} {name}_more_{k + 1}", f"{separator} {part} {name}_more_{k + 1}"
            self._rules[f"{name}_first_{k}"] = first if is_required else f"{first} | {name}_first_{k + 1}"
            self._rules[f"{name}_more_{k}"] = more if is_required else f"{more} | {name}_more_{k + 1}"
        return f"{name}_first_0"

    def _quoted(self, name: str, schema: Any, root: Mapping[str, Any], quote: str) -> str:
        """An object with bare keys; templates sort them, so any order is allowed, and any number."""
        self._until("quoted_end", quote)
        self._rules["quoted_text"] = f"{self._literal(quote)} quoted_end"
        self._rules["quoted_value"] = (
            'quoted_text | /-?[0-9][0-9.eE+-]*/ | "true" | "false" | "null" | "None" | "True" | "False"'
            ' | "[" (quoted_value ("," quoted_value)*)? "]"'
            ' | "{" (quoted_key ":" quoted_value ("," quoted_key ":" quoted_value)*)? "}"'
        )
        self._rules["quoted_key"] = 'quoted_text | /[^\\s{}\\[\\],:"<>]+/'
        members, _, is_open = _members(schema)
        pairs = []
        for k, key in enumerate(members):
            allowed = kinds(property_schema(schema, key, root), root)
            value = "quoted_text" if allowed == {"string"} else "quoted_value"
            if len(allowed) == 1:
                value = _SCALARS.get(next(iter(allowed)), value)
            self._rules[f"{name}_{k}"] = f"{self._literal(key + ':')} {value}"
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
            self._rules[inner] = rule
            parts.append(inner if key in required else f"{inner}?")
        if is_open and level < MAX_DEPTH:
            self._rules["any_element"] = (
                f"{self._literal(prefix)} /<[^<>\\/]+>/ (any_element+ | /[^\\]<]*/)"
                f" {self._literal(prefix)} /<\\/[^<>]+>/"
            )
            parts.append("any_element*")
        return " ".join(parts) or '""'

    def _element(
        self, name: str, key: str, schema: Any, root: Mapping[str, Any], prefix: str, level: int
    ) -> str:
        opening, closing = self._literal(f"{prefix}<{key}>"), self._literal(f"{prefix}</{key}>")
        allowed = kinds(schema, root)
        if allowed == {"object"} and level < MAX_DEPTH:
            return f"{opening} {self._elements(f'{name}o', schema, root, prefix, level + 1)} {closing}"
        if allowed == {"array"} and level < MAX_DEPTH:
            item = self._element(f"{name}i", "item", item_schema(schema, root), root, prefix, level + 1)
            self._rules[f"{name}l"] = item
            return f"{opening} {name}l* {closing}"
        value = _SCALARS.get(next(iter(allowed))) if len(allowed) == 1 else None
        if value is not None:
            return f"{opening} {value} {closing}"
        return f"{opening} {self._until(f'{name}_text', f'{prefix}</{key}>')}"

    # Texts.

    def _until(self, name: str, mark: str) -> str:
        """A rule for any text up to a mark, the mark included."""
        pieces = self._pieces(mark)
        at = next((i for i, piece in enumerate(pieces) if piece.startswith("<[")), None)
        if at is None:
            self._rules[f"{name}[suffix={json.dumps(mark)}]"] = _ANYTHING
        elif at == 0:
            self._rules[name] = f"{_ANYTHING} {' '.join(pieces)}"
        else:
            before = mark[: mark.find(next(t for t in self._control if t in mark))]
            self._rules[f"{name}_before[suffix={json.dumps(before)}]"] = _ANYTHING
            self._rules[name] = f"{name}_before {' '.join(pieces[at:])}"
        return name

    def _pattern(self, pattern: Pattern) -> str:
        return " ".join(_ID if part is None else self._literal(part) for part in pattern)

    def _literal(self, text: str) -> str:
        return " ".join(self._pieces(text))

    def _pieces(self, text: str) -> list[str]:
        """A text as parts of a rule: control tokens by their ids, the rest quoted."""
        if not text:
            return []
        marks = [mark for mark in self._control if mark in text]
        if not marks:
            return [json.dumps(text)]
        splitting = "|".join(re.escape(mark) for mark in sorted(marks, key=len, reverse=True))
        parts = re.split(f"({splitting})", text)
        return [
            f"<[{self._control[part]}]>" if i % 2 else json.dumps(part)
            for i, part in enumerate(parts)
            if part
        ]


def _pattern(text: str) -> Pattern:
    """A pattern from a text in which zeros stand for holes."""
    parts: list[str | None] = []
    for i, part in enumerate(text.split("\0")):
        if i:
            parts.append(None)
        if part:
            parts.append(part)
    return tuple(parts)


def _members(schema: Mapping[str, Any]) -> tuple[list[str], frozenset[str], bool]:
    """The keys of an object, which of them are required, and whether there may be others."""
    properties = schema.get("properties")
    keys = list(properties) if isinstance(properties, Mapping) else []
    required = schema.get("required")
    extra = schema.get("additionalProperties")
    is_open = extra not in (None, False) if keys else extra is not False
    return keys, frozenset(required if isinstance(required, list) else ()), is_open
