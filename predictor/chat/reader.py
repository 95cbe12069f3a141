"""Reads an answer piece by piece: thoughts, text and calls, each part as soon as it is certain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from predictor.chat.arguments import ArgumentsReader, JsonReader, arguments_reader
from predictor.chat.events import ArgumentsPart, CallStarted, Event, Text, Thought
from predictor.chat.form import AnswerForm, CallForm, JsonArguments, PythonArguments
from predictor.chat.matching import Match, first_line, first_mark, last_tag, match_pattern, overlap
from predictor.chat.sections import NamedArguments, json_calls, python_calls
from predictor.chat.tools import Tool

Schemas = Mapping[str, Mapping[str, Any]]


class FormReader:
    """Reads answers of one form; what looks like a mark but isn't one is text.

    Args:
        form: how answers are written.
        tools: what may be called; their schemas tell texts from numbers where the form doesn't.
        in_thought: whether the prompt has begun a thought.
    """

    def __init__(self, form: AnswerForm, tools: Sequence[Tool], *, in_thought: bool = False) -> None:
        self._schemas: Schemas = {tool.name: tool.parameters for tool in tools}
        self._thought_start = form.thought.start.strip() if form.thought else ""
        self._thought_end = form.thought.end.strip() if form.thought else ""
        self._content_start = form.content.start.strip()
        self._content_end = form.content.end.strip()
        self._calls_form = form.calls if tools else None
        trigger = self._calls_form.trigger if self._calls_form else ""
        self._is_bare = self._calls_form is not None and self._calls_form.is_bare
        self._marks = tuple(filter(None, ("" if self._is_bare else trigger, self._content_end)))
        self._firsts = "".join({mark[0] for mark in self._marks})
        self._trigger = trigger
        self._held = ""
        self._events: list[Event] = []
        self._step = self._read_thought if in_thought else self._read_start
        # Whether white space that comes belongs to a text, which it does unless a mark stands before it.
        self._keeps_blanks = not in_thought
        self._is_muted = False
        self._has_thought = False
        self._call_text = ""
        self._name = ""
        self._arguments: ArgumentsReader = JsonReader()
        self.calls = 0

    @property
    def is_thinking(self) -> bool:
        """See `predictor.chat.answer_reader.AnswerReader`."""
        return self._step == self._read_thought

    def push(self, text: str) -> list[Event]:
        """See `predictor.chat.answer_reader.AnswerReader`."""
        self._held = self._held + text if self._held else text
        self._events = []
        # Each step takes what it can from what is held, and says whether another has to go on.
        while self._step():
            pass
        return self._events

    def finish(self) -> list[Event]:
        """See `predictor.chat.answer_reader.AnswerReader`."""
        self._events = []
        text, step = self._held, self._step
        self._held = ""
        if step == self._read_thought:
            self._tell_thought(text.rstrip())
        elif step in (self._read_head, self._read_name, self._read_middle):
            self._end_section(self._call_text + text, whole=False)
        elif step == self._read_section:
            self._end_section(text, whole=False)
        elif step in (self._read_start, self._read_text):
            self._tell_text(text if text.strip() or self._keeps_blanks else "")
        return self._events

    # Text and thoughts.

    def _read_start(self) -> bool:
        """At the start, and behind a thought or a call: what comes next?"""
        held = self._held
        text = held.lstrip()
        blanks = len(held) - len(text)
        if not text:
            return False
        waits = False
        for mark, step in (
            (self._thought_start, self._begin_thought),
            (self._thought_end, self._skip_thought_end),
            (self._content_start, self._begin_content),
            (self._trigger, self._begin_calls),
        ):
            if not mark:
                continue
            if mark is self._trigger and self._is_bare:
                if text[0] == mark[0]:
                    return self._begin_calls(blanks)
                continue
            if text.startswith(mark):
                return step(blanks)
            waits = waits or mark.startswith(text)
        if waits:
            return False
        if not self._keeps_blanks:
            self._held = text
        self._step = self._read_text
        return True

    def _begin_thought(self, blanks: int) -> bool:
        self._held = self._held[blanks + len(self._thought_start) :]
        self._step = self._read_thought
        self._has_thought = False
        return True

    def _skip_thought_end(self, blanks: int) -> bool:
        """An end without a start: some models say so that they don't think."""
        self._held = self._held[blanks + len(self._thought_end) :]
        self._keeps_blanks = False
        return True

    def _begin_content(self, blanks: int) -> bool:
        self._held = self._held[blanks + len(self._content_start) :]
        self._step = self._read_text
        return True

    def _begin_calls(self, blanks: int) -> bool:
        self._held = self._held[blanks:]
        self._call_text = ""
        assert self._calls_form is not None
        python = isinstance(self._calls_form.arguments, PythonArguments)
        if python:
            self._held = self._held[len(self._trigger) :]
        self._step = self._read_section if python else self._read_head
        return True

    def _read_thought(self) -> bool:
        text = self._held
        if not self._has_thought:
            text = text.lstrip()
            if self._thought_start and self._thought_start.startswith(text[: len(self._thought_start)]):
                # The prompt may have opened it, and the model may do so again.
                if len(text) < len(self._thought_start):
                    return False
                text = text[len(self._thought_start) :].lstrip()
        self._held = text
        end = text.find(self._thought_end)
        if end >= 0:
            self._tell_thought(text[:end].rstrip())
            self._held = text[end + len(self._thought_end) :]
            self._step = self._read_start
            self._keeps_blanks = False
            return True
        keep = overlap(text, self._thought_end)
        certain = text[: len(text) - keep].rstrip()
        self._tell_thought(certain)
        self._held = text[len(certain) :]
        return False

    def _tell_thought(self, text: str) -> None:
        if text:
            self._has_thought = True
            self._events.append(Thought(text))

    def _read_text(self) -> bool:
        held = self._held
        if not self._marks:
            self._tell_text(held)
            self._held = ""
            return False
        found = [(at, mark) for mark in self._marks if (at := held.find(mark)) >= 0]
        if found:
            at, mark = min(found)
            self._tell_text(held[:at].rstrip() if mark == self._trigger else held[:at])
            if mark == self._trigger:
                return self._begin_calls(at)
            self._is_muted = True
            self._held = held[at + len(mark) :]
            return True
        keep = max(overlap(held, mark) for mark in self._marks)
        certain = held[: len(held) - keep]
        if self._calls_form is not None:
            certain = certain.rstrip()
        self._tell_text(certain)
        self._held = held[len(certain) :]
        return False

    def _tell_text(self, text: str) -> None:
        if text and not self._is_muted:
            self._events.append(Text(text))
            self._keeps_blanks = True

    # Calls.

    def _form(self) -> CallForm:
        assert self._calls_form is not None
        return self._calls_form

    def _read_head(self) -> bool:
        end = match_pattern(self._form().head, self._held, 0)
        if end is Match.MORE:
            return False
        if isinstance(end, Match):
            return self._to_section()
        self._take(end)
        self._step = self._read_name
        return True

    def _read_name(self) -> bool:
        stop = first_mark((self._form().middle or ("",))[0] or "")
        for i, character in enumerate(self._held):
            if character == stop or character.isspace() or character in '"<({[':
                self._name = self._held[:i]
                self._take(i)
                self._step = self._read_middle
                return True
        return False

    def _read_middle(self) -> bool:
        end = match_pattern(self._form().middle, self._held, 0)
        if end is Match.MORE:
            return False
        begins = not isinstance(end, Match) and self._begins_arguments(end)
        if begins is None:
            return False
        if not begins or not self._name:
            return self._to_section()
        assert isinstance(end, int)
        self._held = self._held[end:]
        self._events.append(CallStarted(self.calls, self._name))
        closing = next((part for part in self._form().tail if part), "")
        schema = self._schemas.get(self._name, {})
        self._arguments = arguments_reader(self._form().arguments, schema, first_line(closing))
        self._step = self._read_arguments
        return True

    def _begins_arguments(self, at: int) -> bool | None:
        """Whether JSON arguments begin with a brace, None where that isn't there yet."""
        if not isinstance(self._form().arguments, JsonArguments):
            return True
        rest = self._held[at:].lstrip()
        return rest[0] == "{" if rest else None

    def _read_arguments(self) -> bool:
        part, taken = self._arguments.take(self._held)
        if part:
            self._events.append(ArgumentsPart(self.calls, part))
        self._held = self._held[taken:]
        if not self._arguments.is_done:
            return False
        self._end_call()
        self._step = self._read_behind
        return True

    def _end_call(self) -> None:
        self.calls += 1
        self._keeps_blanks = False

    def _read_behind(self) -> bool:
        """Behind a call's arguments: the next call of the same section, or its end."""
        form = self._form()
        further = Match.NO if form.between is None else match_pattern(form.between, self._held, 0)
        ended = match_pattern(form.tail, self._held, 0) if form.tail else 0
        if isinstance(further, int) and (not isinstance(ended, int) or further > ended):
            self._call_text = ""
            self._held = self._held[further:]
            self._step = self._read_name
            return True
        if further is Match.MORE and self._held.strip():
            return False
        if ended is Match.MORE:
            return False
        if isinstance(ended, int):
            self._held = self._held[ended:]
            self._step = self._read_start
            return bool(self._held)
        return self._skip_tail()

    def _skip_tail(self) -> bool:
        """Behind a call that isn't followed by what the form has: go on behind the form's last mark."""
        last = last_tag(next((part for part in reversed(self._form().tail) if part), ""))
        at = self._held.find(last)
        if last and at < 0:
            return False
        self._held = self._held[at + len(last) :]
        self._step = self._read_start
        return bool(self._held)

    def _take(self, count: int) -> None:
        self._call_text += self._held[:count]
        self._held = self._held[count:]

    # Calls in another order or spelling than the form's.

    def _to_section(self) -> bool:
        self._held = self._call_text + self._held
        self._call_text = ""
        self._step = self._read_section
        return True

    def _read_section(self) -> bool:
        end = self._section_end()
        if end is None:
            return False
        section, self._held = self._held[:end], self._held[end:]
        self._step = self._read_start
        self._end_section(section, whole=True)
        return True

    def _section_end(self) -> int | None:
        if self._is_bare:
            scanner = JsonReader()
            _, taken = scanner.take(self._held)
            return taken if scanner.is_done else None
        last = last_tag(next((part for part in reversed(self._form().tail) if part), ""))
        at = self._held.find(last) if last else -1
        return at + len(last) if at >= 0 else None

    def _end_section(self, section: str, *, whole: bool) -> None:
        calls = self._section_calls(section, whole=whole)
        if calls is None:
            python = isinstance(self._form().arguments, PythonArguments)
            self._tell_text(f"{self._trigger}{section}" if python else section)
            return
        for name, arguments in calls:
            self._events += [CallStarted(self.calls, name), ArgumentsPart(self.calls, arguments)]
            self._end_call()

    def _section_calls(self, section: str, *, whole: bool) -> list[NamedArguments] | None:
        last = last_tag(next((part for part in reversed(self._form().tail) if part), ""))
        body = section.strip()
        if whole and not self._is_bare:
            body = body.removesuffix(last)
        if isinstance(self._form().arguments, PythonArguments):
            body = body.strip().removeprefix("[")
            return python_calls(
                body.rstrip().removesuffix("]") if body.count("[") < body.count("]") else body
            )
        if self._is_bare:
            return json_calls(body, self._schemas)
        return json_calls(body.removeprefix(self._trigger).strip())
