"""Grammars for the arguments of calls, in each of the notations that models have for them."""

from __future__ import annotations

from typing import Any

from predictor.chat.form import (
    CallForm,
    ElementArguments,
    JsonArguments,
    PythonArguments,
    QuotedArguments,
    TaggedArguments,
)
from predictor.chat.python_rules import PythonRules
from predictor.chat.raw_rules import BareKeyRules, ElementRules, TaggedRules
from predictor.chat.rules import ControlTokens, RuleWriter
from predictor.chat.schemas import KINDS, kinds
from predictor.chat.tools import Tool
from predictor.chat.value_rules import PARAM, Place, ValueRules
from predictor.errors import InvalidRequest
from predictor.structured.grammar import inline_schema

_MOST_NAMED = 3


class ArgumentWriter(RuleWriter):
    """Writes the rules of arguments.

    Attributes:
        not_enforced: JSON pointers to keywords of the tools' schemas that no rule holds, each behind the
            tool's number.
    """

    def __init__(self, control: ControlTokens) -> None:
        super().__init__(control)
        self.not_enforced: list[str] = []

    def arguments(self, form: CallForm, index: int, tool: Tool) -> str:
        """A part of a rule: the arguments of the tool with this number.

        Raises:
            InvalidRequest: a schema can't be used, or is strict and can't be enforced in this form.
        """
        match form.arguments:
            case JsonArguments():
                return self.json(index, tool)
            case TaggedArguments() as style:
                tagged = TaggedRules(self, tool, f"argument_{index}", python=style.python)
                return self._told(index, tool, tagged, self._tagged(index, tool, style, tagged), style.name)
            case PythonArguments() as python:
                rules = PythonRules(self, tool, f"keyword_{index}")
                return self._told(index, tool, rules, rules.keywords(tool.parameters), python.name)
            case QuotedArguments(mark) as quoted:
                bare = BareKeyRules(self, tool, f"pair_{index}", mark)
                rule = bare.value(tool.parameters, "", f"pairs_{index}", Place(among=frozenset({"object"})))
                return self._told(index, tool, bare, rule, quoted.name)
            case ElementArguments(prefix) as elements:
                inner = ElementRules(self, tool, f"element_{index}", prefix)
                return self._told(index, tool, inner, inner.members_of(tool.parameters), elements.name)

    def json(self, index: int, tool: Tool) -> str:
        """As `arguments`, as one JSON object."""
        # Each schema is a document of its own, so that references in it keep their meaning.
        self.rules[f"arguments_{index}"] = inline_schema(tool.parameters, PARAM, strict=tool.strict)
        self.pointers[f"arguments_{index}"] = f"[{index}]"
        return f"arguments_{index}"

    def _told(self, index: int, tool: Tool, rules: ValueRules, rule: str, form: str) -> str:
        """The rule, once it is said what of the schema it doesn't hold."""
        left = list(dict.fromkeys(rules.not_enforced))
        if left and tool.strict:
            more = f" and {len(left) - _MOST_NAMED} more" if len(left) > _MOST_NAMED else ""
            raise InvalidRequest(
                f"the schema of {tool.name!r} is strict, but {', '.join(left[:_MOST_NAMED])}{more} can't be "
                f"enforced in this model's own form of arguments ({form}): leave it out, or leave strict out",
                param=PARAM,
            )
        self.not_enforced += [f"[{index}]{place}" for place in (*tool.not_enforced, *left)]
        for name, pointer in self.pointers.items():
            if not pointer.startswith("["):
                self.pointers[name] = f"[{index}]{pointer}"
        return rule

    def _tagged(self, index: int, tool: Tool, style: TaggedArguments, rules: TaggedRules) -> str:
        """Arguments in the order of the schema; those that aren't required may be missing."""
        members, other = rules.members(
            f"argument_{index}",
            tool.parameters,
            "",
            lambda name, key, schema, pointer: self._tag(name, key, schema, pointer, style, rules),
        )
        parts = [member.rule if member.is_required else f"{member.rule}?" for member in members]
        parts += [f"{other}*"] if other else []
        if not any(member.is_required for member in members):
            parts.append(r"/\n?/")  # Some templates leave a line for the arguments that there aren't.
        return " ".join(parts)

    def _tag(
        self,
        name: str,
        key: str | None,
        schema: Any,
        pointer: str,
        style: TaggedArguments,
        rules: TaggedRules,
    ) -> str:
        """One argument: its key, and its value behind what stands before values of its type."""
        start = self.literal(style.key_start) if key is None else self.literal(style.key_start + key)
        head = f'{start} /[^<>"\\n]{{1,256}}/' if key is None else start
        allowed = kinds(schema, rules.root)
        parts = []
        for i, (opening, is_text) in enumerate(style.openings.items()):
            among = KINDS if is_text is None else frozenset({"string"}) if is_text else KINDS - {"string"}
            if allowed and not allowed & among:
                continue
            place = Place(style.value_end, frozenset({"string"}) if is_text else allowed, among)
            value = rules.value(schema, pointer, f"{name}_{i}v", place)
            parts.append(f"{self.literal(opening)} {value}")
        return f"{head} ({' | '.join(parts)})"
