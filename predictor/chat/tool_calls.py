"""Tool calls in what the model writes: the grammar that they follow, and reading them while they come."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from predictor.chat.tools import CALL_END, CALL_START, Tool
from predictor.engine.detokenizer import overlap
from predictor.structured.grammar import Grammar, inline_schema, is_costly

PARAM = "tools"


@dataclass(frozen=True, slots=True)
class Text:
    """Text outside of calls."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStarted:
    """A call has begun; `index` counts the calls of an answer from 0."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class ArgumentsPart:
    """The next part of the JSON text of a call's arguments."""

    index: int
    text: str


Event = Text | CallStarted | ArgumentsPart


def calls_grammar(tools: Sequence[Tool], *, parallel: bool) -> Grammar:
    """An answer that is one call, or one and more.

    Raises:
        InvalidRequest: a schema is too deep, or all together are too long.
    """
    more = f' ("\\n" {_quoted(CALL_START)} call)*' if parallel else ""
    return _grammar(f"start: {_quoted(CALL_START)} call{more}", tools)


def call_grammar(tools: Sequence[Tool]) -> Grammar:
    """One call without the marker before it.

    Raises:
        InvalidRequest: a schema is too deep, or all together are too long.
    """
    return _grammar("start: call", tools)


def text_or_calls_grammar(answer: Grammar, tools: Sequence[Tool], *, parallel: bool) -> Grammar:
    """An answer that is either what `answer` allows or calls; `answer` must not allow a `<` at its start."""
    calls = calls_grammar(tools, parallel=parallel)
    text = "\n".join(
        [
            "start: answer | calls",
            answer.text.replace("start:", "answer:", 1),
            calls.text.replace("start:", "calls:", 1),
        ]
    )
    return Grammar(text, answer.param, answer.is_costly or calls.is_costly)


def _grammar(start: str, tools: Sequence[Tool]) -> Grammar:
    names = " | ".join(f"call_{i}" for i in range(len(tools)))
    lines = [start, f"call: {names}"]
    tail = _quoted(f"}}\n{CALL_END}")
    for i, tool in enumerate(tools):
        head = _quoted(f'\n{{"name": "{tool.name}", "arguments": ')
        # Each schema is a document of its own, so that references in it keep their meaning.
        lines.append(f"call_{i}: {head} arguments_{i} {tail}")
        lines.append(f"arguments_{i}: {inline_schema(tool.parameters, PARAM, strict=tool.strict)}")
    return Grammar("\n".join(lines), PARAM, any(is_costly(tool.parameters) for tool in tools))


def _quoted(text: str) -> str:
    return json.dumps(text)


_HEAD = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"arguments"\s*:\s*(?=\{)')


class ToolCallReader:
    """Takes an answer piece by piece and tells its text and its calls, each part as soon as it is certain.

    What stands between markers but is no call is text.
    """

    def __init__(self) -> None:
        self._held = ""
        self._read = self._read_text
        self._scanner = _ObjectScanner()
        # White space after a call belongs to neither it nor the next, unless a text has begun.
        self._in_text = True
        self.calls = 0

    def push(self, text: str) -> list[Event]:
        """Take the next piece of the answer."""
        self._held += text
        events: list[Event] = []
        # Each state takes what it can from what is held, and says whether another has to go on.
        while self._read(events):
            pass
        return events

    def finish(self) -> list[Event]:
        """End the answer: what was held back for a marker or a call that never came."""
        text, self._held = self._held, ""
        if self._read == self._read_text:
            return [Text(text)] if text and (text.strip() or self._in_text) else []
        return [Text(CALL_START + text)] if self._read == self._read_head else []

    def _read_text(self, events: list[Event]) -> bool:
        before, marker, after = self._held.partition(CALL_START)
        keep = 0 if marker else overlap(before, CALL_START)
        text, rest = before[: len(before) - keep], before[len(before) - keep :]
        if not self._in_text and not text.strip():
            text, rest = ("", rest) if marker else ("", text + rest)
        if text:
            events.append(Text(text))
            self._in_text = True
        self._held = after if marker else rest
        if marker:
            self._read = self._read_head
        return bool(marker)

    def _read_head(self, events: list[Event]) -> bool:
        if head := _HEAD.match(self._held):
            events.append(CallStarted(self.calls, json.loads(head[1])))
            self._held = self._held[head.end() :]
            self._scanner = _ObjectScanner()
            self._read = self._read_arguments
            return True
        body, marker, after = self._held.partition(CALL_END)
        if not marker:
            return False
        self._held = after
        self._read = self._read_text
        call = _whole_call(body)
        if call is None:
            events.append(Text(f"{CALL_START}{body}{CALL_END}"))
            return True
        events += [CallStarted(self.calls, call[0]), ArgumentsPart(self.calls, call[1])]
        self.calls += 1
        self._in_text = False
        return True

    def _read_arguments(self, events: list[Event]) -> bool:
        end = self._scanner.scan(self._held)
        part, self._held = self._held[:end], self._held[end:]
        if part:
            events.append(ArgumentsPart(self.calls, part))
        if not self._scanner.is_done:
            return False
        self.calls += 1
        self._in_text = False
        self._read = self._read_tail
        return True

    def _read_tail(self, events: list[Event]) -> bool:
        _, marker, after = self._held.partition(CALL_END)
        if marker:
            self._held = after
            self._read = self._read_text
        return bool(marker)


class _ObjectScanner:
    """Finds the end of a JSON object that comes in pieces."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._escaped = False
        self.is_done = False

    def scan(self, text: str) -> int:
        """How many characters of `text` belong to the object."""
        for i, character in enumerate(text):
            if self._escaped:
                self._escaped = False
            elif self._in_string:
                self._escaped = character == "\\"
                self._in_string = character != '"'
            elif character == '"':
                self._in_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth == 0:
                    self.is_done = True
                    return i + 1
        return len(text)


def _whole_call(body: str) -> tuple[str, str] | None:
    """The name and arguments of a call in another order or spelling."""
    try:
        call: Any = json.loads(body)
        name, arguments = call["name"], call.get("arguments", call.get("parameters", {}))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    if not isinstance(name, str) or not isinstance(arguments, dict):
        return None
    return name, json.dumps(arguments, ensure_ascii=False)
