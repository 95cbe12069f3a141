"""Grammars for answers in a model's own form."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from predictor.chat.argument_grammar import ArgumentWriter
from predictor.chat.form import AnswerForm, CallForm, Pattern
from predictor.chat.rules import ControlTokens
from predictor.chat.schemas import moved
from predictor.chat.tools import Tool
from predictor.chat.value_rules import PARAM
from predictor.errors import InvalidRequest
from predictor.structured.grammar import (
    MAX_CHARACTERS,
    MAX_DEPTH,
    MAX_WRITTEN,
    Grammar,
    depth,
    inline_schema,
    is_costly,
)

_SPACE = r"/[ \n]{0,4}/"


@dataclass(frozen=True, slots=True)
class Lazily:
    """What follows a trigger is held to a grammar; everything else is free."""

    trigger: str
    grammar: Grammar
    once: bool
    at_start: bool


class GrammarWriter(ArgumentWriter):
    """Writes the grammars of one request.

    Args:
        form: how the model writes.
        tools: what it may call.
        control: the control tokens among the form's marks.
    """

    def __init__(self, form: AnswerForm, tools: Sequence[Tool], control: ControlTokens) -> None:
        super().__init__(control)
        self._form = form
        self._tools = tools
        for tool in tools:
            # As for every schema: refused before anything walks down into it.
            if depth(tool.parameters) > MAX_DEPTH:
                inline_schema(tool.parameters, PARAM, strict=tool.strict)
        if sum(len(json.dumps(tool.parameters)) for tool in tools) > MAX_CHARACTERS:
            raise InvalidRequest(
                f"the schemas in {PARAM} are longer than {MAX_CHARACTERS} characters together", param=PARAM
            )

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
        if "calls" in what:
            calls = self._calls(parallel=parallel) if answer is None else self._calls_beside(parallel)
            lines.append(f"calls: {calls}")
        first: list[str] = []
        if answer is not None:
            before, after = self._text_marks()
            lines.append(f"text: {self.literal(before)} inner {self.literal(after)}")
            lines.append(re.sub(r"^start\s*:", "inner:", answer.text, count=1, flags=re.MULTILINE))
            first = [f"{answer.param}#"] if "%json " in answer.text else []
        return self._grammar(
            [*lines, *self.lines()], PARAM if answer is None else answer.param, first, answer
        )

    def _grammar(
        self, lines: Sequence[str], param: str, first: Sequence[str] = (), answer: Grammar | None = None
    ) -> Grammar:
        """The grammar of some rules; `first` tells where the schemas before those of tools come from."""
        return Grammar(
            "\n".join(lines),
            param,
            is_costly=self.has_limits
            or any(is_costly(tool.parameters) for tool in self._tools)
            or (answer is not None and answer.is_costly),
            most=MAX_WRITTEN,
            not_enforced=tuple(self._place(place) for place in self.not_enforced),
            origins=(
                *first,
                *(self._place(self.pointers[name]) for name in self.rules if name in self.pointers),
            ),
        )

    def _place(self, pointer: str) -> str:
        """A place in a tool's schema behind the field; the number is left out where there is one tool."""
        if len(self._tools) > 1:
            return f"{PARAM}{pointer}"
        return f"{PARAM}#{pointer.partition(']')[2]}"

    def _text_marks(self) -> tuple[str, str]:
        channels = self._form.channels
        if channels is not None:
            return channels.texts[0] + channels.header_end, ""
        return self._form.content.start if self._form.content.is_certain else "", ""

    def _thought(self, *, in_thought: bool, may_think: bool) -> str:
        channels = self._form.channels
        if channels is not None:
            if not channels.thoughts or not may_think:
                return ""
            self.until("thought_text", channels.ends[0])
            head = self.literal(channels.thoughts[0] + channels.header_end)
            self.rules["thought"] = f"{head} thought_text {self.literal(channels.opening)}"
            return "thought?"
        thought = self._form.thought
        if thought is None or not (in_thought or may_think):
            return _SPACE if self._form.thought else ""
        self.until("thought_text", thought.end.strip())
        if in_thought:
            return f"thought_text {_SPACE}"
        # Some models write the end alone where they don't think.
        start, end = self.literal(thought.start.strip()), self.literal(thought.end.strip())
        self.rules["thought"] = f"({start} thought_text | {end}) {_SPACE}"
        return f"{_SPACE} thought?"

    # Calls.

    def lazily(self, *, parallel: bool) -> Lazily | None:
        """What follows the trigger of calls; None where they have none.

        Raises:
            InvalidRequest: a schema is too deep, or all together are too long.
        """
        channels = self._form.channels
        if channels is not None:
            trigger = (channels.call[0] or "").strip()
            if not trigger or trigger == "to=":
                return None
            start = f"start: {self._channel_call(named=False)}"
            return Lazily(trigger, self._grammar([start, *self.lines()], PARAM), not parallel, at_start=False)
        form = self._form.calls
        if form is None:
            return None
        head = "".join(part if part is not None else "\0" for part in form.head).lstrip()
        rest = _pattern(head.removeprefix(form.trigger))
        start = f"start: {self._calls(parallel=parallel, head=rest)}"
        grammar = self._grammar([start, *self.lines()], PARAM)
        return Lazily(form.trigger, grammar, not parallel or form.is_bare, at_start=form.is_bare)

    def _calls(self, *, parallel: bool, head: Pattern | None = None) -> str:
        channels = self._form.channels
        if channels is not None:
            call = self._channel_call(named=True)
            if not parallel or not channels.several:
                return call
            between = "".join(channels.ends[:1]) + channels.opening
            return f"{call} ({self.literal(between)} {call})*"
        form = self._form.calls
        assert form is not None
        begin = ""
        if head is None:
            head = form.head
            if form.head and form.head[0] and form.head[0][0].isspace():
                begin, head = _SPACE, (form.head[0].lstrip(), *form.head[1:])
            if self._form.content.end:
                empty = self._form.content.start.strip() + self._form.content.end.strip()
                begin = f"({self.literal(empty)})? {begin}"
        call = self._call_rule(form)
        more = ""
        if parallel and form.between is not None:
            more = f" ({self.pattern(form.between)} {call})*"
        tail = form.tail
        if tail and tail[-1]:
            tail = (*tail[:-1], tail[-1].rstrip())
        return f"{begin} {self.pattern(head)} {call}{more} {self.pattern(tail)}"

    def _calls_beside(self, parallel: bool) -> str:
        """Calls that may stand in place of another answer."""
        form = self._form.calls
        if form is None or not form.is_bare:
            return self._calls(parallel=parallel)
        # A call begins like the JSON that an answer may be, so it must be JSON for llguidance, too.
        key = re.findall(r'"(\w+)"', form.middle[-1] or "")[-1]
        for i, tool in enumerate(self._tools):
            members = {"name": {"const": tool.name}, key: moved(tool.parameters, f"#/properties/{key}")}
            call = {
                "type": "object",
                "properties": members,
                "required": ["name", key],
                "additionalProperties": False,
            }
            self.rules[f"bare_{i}"] = inline_schema(call, PARAM, strict=tool.strict)
            self.pointers[f"bare_{i}"] = f"[{i}]"
        return " | ".join(f"bare_{i}" for i in range(len(self._tools)))

    def _call_rule(self, form: CallForm) -> str:
        for i, tool in enumerate(self._tools):
            self.rules[f"call_{i}"] = (
                f"{self.literal(tool.name)} {self.pattern(form.middle)} {self.arguments(form, i, tool)}"
            )
        self.rules["call"] = " | ".join(f"call_{i}" for i in range(len(self._tools)))
        return "call"

    def _channel_call(self, *, named: bool) -> str:
        channels = self._form.channels
        assert channels is not None
        at = channels.call.index(None)
        before, after = channels.call[:at], channels.call[at + 1 :]
        for i, tool in enumerate(self._tools):
            head = f"{self.literal(tool.name)} {self.pattern(after)} {self.literal(channels.header_end)}"
            if channels.body is not None:
                body = channels.body
                inner = f"{self.pattern(body.head)} {self.literal(tool.name)} {self.pattern(body.middle)}"
                rest = f"{inner} {self.arguments(body, i, tool)} {self.pattern(body.tail)}"
            else:
                rest = self.json(i, tool)
            self.rules[f"call_{i}"] = f"{head} {rest}"
        self.rules["call"] = " | ".join(f"call_{i}" for i in range(len(self._tools)))
        return f"{self.pattern(before)} call" if named else "call"


def _pattern(text: str) -> Pattern:
    """A pattern from a text in which zeros stand for holes."""
    parts: list[str | None] = []
    for i, part in enumerate(text.split("\0")):
        if i:
            parts.append(None)
        if part:
            parts.append(part)
    return tuple(parts)
