"""Reads an answer piece by piece: thoughts, text and calls, each part as soon as it is certain."""

from __future__ import annotations

from collections.abc import Sequence

from predictor.chat.call_reader import CallReader
from predictor.chat.events import Event, Text, Thought
from predictor.chat.form import AnswerForm
from predictor.chat.matching import overlap
from predictor.chat.tools import Tool


class FormReader:
    """Reads answers of one form; what looks like a mark but isn't one is text.

    Args:
        form: how answers are written.
        tools: what may be called; their schemas tell texts from numbers where the form doesn't.
        in_thought: whether the prompt has begun a thought.
        in_text: whether it goes on with a text.
        calls: how many the answer has had before.
    """

    def __init__(
        self,
        form: AnswerForm,
        tools: Sequence[Tool],
        *,
        in_thought: bool = False,
        in_text: bool = False,
        calls: int = 0,
    ) -> None:
        self._thought_start = form.thought.start.strip() if form.thought else ""
        self._thought_end = form.thought.end.strip() if form.thought else ""
        self._content_start = form.content.start.strip()
        self._content_end = form.content.end.strip()
        call_form = form.calls if tools else None
        schemas = {tool.name: tool.parameters for tool in tools}
        self._calls = CallReader(call_form, schemas, calls) if call_form is not None else None
        self._trigger = call_form.trigger if call_form else ""
        self._is_bare = call_form is not None and call_form.is_bare
        self._marks = tuple(filter(None, ("" if self._is_bare else self._trigger, self._content_end)))
        self._held = ""
        self._events: list[Event] = []
        self._step = self._read_text if in_text else self._read_start
        if in_thought:
            self._step = self._read_thought
        # Whether white space that comes belongs to a text, which it does unless a mark stands before it.
        self._keeps_blanks = not in_thought
        self._is_muted = False
        self._has_thought = False

    @property
    def calls(self) -> int:
        """See `predictor.chat.answer_reader.AnswerReader`."""
        return self._calls.calls if self._calls is not None else 0

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
        elif step == self._read_calls and self._calls is not None:
            self._tell(self._calls.finish())
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
        assert self._calls is not None
        self._calls.begin()
        self._step = self._read_calls
        return True

    def _read_calls(self) -> bool:
        assert self._calls is not None
        text, self._held = self._held, ""
        self._tell(self._calls.push(text))
        if not self._calls.is_done:
            return False
        self._held = self._calls.rest
        self._step = self._read_start
        return bool(self._held)

    def _tell(self, events: Sequence[Event]) -> None:
        for event in events:
            if isinstance(event, Text):
                self._tell_text(event.text)
            else:
                self._events.append(event)
                self._keeps_blanks = False

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
        if self._calls is not None:
            certain = certain.rstrip()
        self._tell_text(certain)
        self._held = held[len(certain) :]
        return False

    def _tell_text(self, text: str) -> None:
        if text and not self._is_muted:
            self._events.append(Text(text))
            self._keeps_blanks = True
