"""Reads the calls of an answer, from the mark that begins them to the one behind the last."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from predictor.chat.arguments import ArgumentsReader, JsonReader, arguments_reader
from predictor.chat.events import ArgumentsPart, CallStarted, Event, Text
from predictor.chat.form import CallForm, JsonArguments, PythonArguments, QuotedArguments
from predictor.chat.matching import Match, first_line, first_mark, last_tag, match_pattern
from predictor.chat.sections import NamedArguments, Schemas, json_calls, python_calls


class CallReader:
    """Reads calls of one form; what begins like them and isn't any comes back as text.

    Args:
        form: how calls are written.
        schemas: of the functions that may be called.
        calls: how many the answer has had before.

    Attributes:
        calls: how many have been read to their end.
        is_done: whether what comes next stands behind the calls.
        rest: what has come of that.
    """

    def __init__(self, form: CallForm, schemas: Schemas, calls: int = 0) -> None:
        self._form = form
        self._schemas = schemas
        self._closing = first_line(next((part for part in form.tail if part), ""))
        self._last_mark = last_tag(next((part for part in reversed(form.tail) if part), ""))
        self._events: list[Event] = []
        self._held = ""
        self._call_text = ""
        self._name = ""
        self._is_told = False
        self._arguments: ArgumentsReader = JsonReader()
        self._step: Callable[[], bool] = self._read_head
        self.calls = calls
        self.is_done = True
        self.rest = ""

    def begin(self) -> None:
        """What comes next is the mark that begins calls."""
        self._held = self._call_text = self.rest = ""
        self._step = self._read_head
        self.is_done = False

    def push(self, text: str) -> list[Event]:
        """The events of the next piece, up to the end of the calls."""
        self._held += text
        self._events = []
        # Each step takes what it can from what is held, and says whether another has to go on.
        while not self.is_done and self._step():
            pass
        return self._events

    def finish(self) -> list[Event]:
        """The events of what was held back, where nothing more comes."""
        self._events = []
        if self._step == self._read_arguments:
            self._tell_arguments(*self._arguments.take_last(self._held))
            if self._is_told:
                self.calls += self._arguments.is_done
                return self._events
        if self._step != self._read_behind:
            self._end_section(self._call_text + self._held, whole=False)
        return self._events

    def _end(self, at: int) -> bool:
        self.rest, self._held = self._held[at:], ""
        self.is_done = True
        return False

    def _read_head(self) -> bool:
        end = match_pattern(self._form.head, self._held, 0)
        if end is Match.MORE:
            return False
        if isinstance(end, Match):
            return self._to_section()
        self._take(end)
        self._step = self._read_name
        return True

    def _read_name(self) -> bool:
        stop = first_mark((self._form.middle or ("",))[0] or "")
        # White space at the end of what stands before may come later.
        self._take(len(self._held) - len(self._held.lstrip()))
        for i, character in enumerate(self._held):
            if character == stop or character.isspace() or character in '"<({[':
                self._name = self._held[:i]
                self._take(i)
                self._step = self._read_middle
                return True
        return False

    def _read_middle(self) -> bool:
        end = match_pattern(self._form.middle, self._held, 0)
        if end is Match.MORE:
            return False
        begins = not isinstance(end, Match) and self._begins_arguments(end)
        if begins is None:
            return False
        if not begins or not self._name:
            return self._to_section()
        assert isinstance(end, int)
        self._take(end)
        schema = self._schemas.get(self._name, {})
        self._arguments = arguments_reader(self._form.arguments, schema, self._closing)
        self._is_told = False
        # What looks like Python may be anything, up to a first argument.
        if not isinstance(self._form.arguments, PythonArguments):
            self._tell_start()
        self._step = self._read_arguments
        return True

    def _begins_arguments(self, at: int) -> bool | None:
        """Whether arguments begin with their bracket, None where that isn't there yet."""
        bracket = _BRACKETS.get(type(self._form.arguments))
        if bracket is None:
            return True
        rest = self._held[at:].lstrip()
        return rest[0] == bracket if rest else None

    def _tell_start(self) -> None:
        self._is_told = True
        self._events.append(CallStarted(self.calls, self._name))

    def _read_arguments(self) -> bool:
        self._tell_arguments(*self._arguments.take(self._held))
        if self._arguments.is_broken and not self._is_told:
            return self._to_section()
        if not self._arguments.is_done and not self._arguments.is_broken:
            return False
        self.calls += 1
        self._step = self._read_behind
        return True

    def _tell_arguments(self, part: str, taken: int) -> None:
        if part:
            if not self._is_told:
                self._tell_start()
            self._events.append(ArgumentsPart(self.calls, part))
        if self._is_told:
            self._held = self._held[taken:]
        else:  # It may turn out to be no call, and is text then.
            self._take(taken)

    def _read_behind(self) -> bool:
        """Behind a call's arguments: the next call of the same section, or its end."""
        form = self._form
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
        return self._end(ended) if isinstance(ended, int) else self._skip_tail()

    def _skip_tail(self) -> bool:
        """Behind a call that isn't followed by what the form has: go on behind the form's last mark."""
        at = self._held.find(self._last_mark)
        if self._last_mark and at < 0:
            return False
        return self._end(at + len(self._last_mark))

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
        self._end_section(self._held[:end], whole=True)
        return self._end(end)

    def _section_end(self) -> int | None:
        if self._form.is_bare:
            scanner = JsonReader()
            _, taken = scanner.take(self._held)
            return taken if scanner.is_done else None
        at = self._held.find(self._last_mark) if self._last_mark else -1
        return at + len(self._last_mark) if at >= 0 else None

    def _end_section(self, section: str, *, whole: bool) -> None:
        calls = self._section_calls(section, whole=whole)
        if calls is None:
            self._events.append(Text(section))
            return
        for name, arguments in calls:
            self._events += [CallStarted(self.calls, name), ArgumentsPart(self.calls, arguments)]
            self.calls += 1

    def _section_calls(self, section: str, *, whole: bool) -> list[NamedArguments] | None:
        body = section.strip()
        is_python = isinstance(self._form.arguments, PythonArguments)
        if self._form.is_bare and not is_python:
            return json_calls(body, self._schemas)
        if whole:
            body = body.removesuffix(self._last_mark)
        body = body.removeprefix(self._form.trigger).strip()
        if not is_python:
            return json_calls(body)
        body = body.removeprefix("[")
        return python_calls(
            body.removesuffix("]") if body.count("[") < body.count("]") else body, self._schemas
        )


_BRACKETS: Mapping[type, str] = {JsonArguments: "{", QuotedArguments: "{", PythonArguments: "("}
