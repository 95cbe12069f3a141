"""Reads answers that are messages to recipients: thoughts to itself, text to the user, calls to functions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import Enum

from predictor.chat.arguments import ArgumentsReader, JsonReader
from predictor.chat.events import ArgumentsPart, CallStarted, Event, Text, Thought
from predictor.chat.form import AnswerForm, ChannelForm
from predictor.chat.matching import overlap
from predictor.chat.reader import FormReader
from predictor.chat.tools import Tool


class _Kind(Enum):
    THOUGHT = "thought"
    TEXT = "text"
    CALL = "call"


class ChannelReader:
    """See `predictor.chat.answer_reader.AnswerReader`.

    Args:
        form: how messages are written.
        tools: what may be called.
        in_text: whether the prompt has begun a text.
    """

    def __init__(self, form: ChannelForm, tools: Sequence[Tool], *, in_text: bool = False) -> None:
        self._form = form
        self._tools = tools
        self._marks = (*form.ends, form.opening)
        at = form.call.index(None)
        before = (form.call[at - 1] if at else None) or ""
        # Models put the channel before or behind the recipient.
        self._recipient = re.compile(re.escape(before.lstrip()) + r"([^\s<]+)")
        self._has_recipient = bool(before.strip())
        self._held = ""
        self._kind = _Kind.TEXT if in_text else None
        self._arguments: ArgumentsReader = JsonReader()
        self._inner: FormReader | None = None
        self._name = ""
        self.calls = 0

    @property
    def is_thinking(self) -> bool:
        """See `AnswerReader`."""
        return self._kind is _Kind.THOUGHT

    def push(self, text: str) -> list[Event]:
        """See `AnswerReader`."""
        self._held += text
        events: list[Event] = []
        while self._read_header() if self._kind is None else self._read_body(events):
            pass
        return events

    def finish(self) -> list[Event]:
        """See `AnswerReader`."""
        events: list[Event] = []
        text, self._held = self._held, ""
        if self._kind is None:
            header = text.removeprefix(self._form.opening)
            marked = any(mark.startswith(header) or header.startswith(mark) for mark in self._starts())
            return [] if not header.strip() or marked else [Text(text)]
        self._tell(text, events)
        self._end_body(events)
        return events

    def _starts(self) -> list[str]:
        call = self._form.call[0]
        return [*self._form.thoughts, *self._form.texts, *([call] if call else [])]

    def _read_header(self) -> bool:
        header, end, rest = self._held.partition(self._form.header_end)
        if not end:
            return False
        header = header.rpartition(self._form.opening)[2] if self._form.opening in header else header
        self._held = rest
        self._kind, self._name = self._meaning(header)
        if self._kind is _Kind.CALL and self._form.body is not None:
            self._inner = FormReader(AnswerForm(calls=self._form.body), self._tools, calls=self.calls)
        self._arguments = JsonReader()
        self._begun = False
        return True

    def _meaning(self, header: str) -> tuple[_Kind, str]:
        bare = header.strip()
        if any(mark.strip() in bare for mark in self._form.thoughts):
            return _Kind.THOUGHT, ""
        recipient = self._recipient.search(bare)
        is_text = any(mark.strip() == bare for mark in self._form.texts)
        if recipient is not None and not is_text and self._tools:
            return _Kind.CALL, recipient[1]
        return _Kind.TEXT, ""

    def _read_body(self, events: list[Event]) -> bool:
        held = self._held
        found = [(at, mark) for mark in self._marks if (at := held.find(mark)) >= 0]
        if found:
            at, mark = min(found)
            self._tell(held[:at], events)
            self._end_body(events)
            self._held = held[at + len(mark) :] if mark in self._form.ends else held[at:]
            self._kind = None
            return True
        keep = max(overlap(held, mark) for mark in self._marks)
        self._tell(held[: len(held) - keep], events)
        self._held = held[len(held) - keep :]
        return False

    def _tell(self, text: str, events: list[Event]) -> None:
        if not text:
            return
        if self._kind is _Kind.THOUGHT:
            events.append(Thought(text))
        elif self._kind is _Kind.TEXT:
            events.append(Text(text))
        elif self._inner is not None:
            events += [event for event in self._inner.push(text) if not isinstance(event, Text)]
        else:
            self._tell_call(text, events)

    def _tell_call(self, text: str, events: list[Event]) -> None:
        if not self._begun:
            self._begun = True
            events.append(CallStarted(self.calls, self._name))
        part, _ = self._arguments.take(text) if not self._arguments.is_done else ("", 0)
        if part:
            events.append(ArgumentsPart(self.calls, part))

    def _end_body(self, events: list[Event]) -> None:
        if self._kind is not _Kind.CALL:
            return
        if self._inner is not None:
            events += [event for event in self._inner.finish() if not isinstance(event, Text)]
            self.calls, self._inner = self._inner.calls, None
        elif self._begun:
            self.calls += 1
