"""Reads the arguments of one call while they come, and tells them as JSON text."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Protocol

from predictor.chat.bare_keys import BareKeyReader
from predictor.chat.elements import ElementReader
from predictor.chat.form import (
    Arguments,
    ElementArguments,
    JsonArguments,
    PythonArguments,
    QuotedArguments,
    TaggedArguments,
)
from predictor.chat.matching import Match, first_mark, match_literal, overlap
from predictor.chat.python_literals import PythonReader
from predictor.chat.schemas import kinds, property_schema
from predictor.chat.values import read_value

_CDATA, _CDATA_END = "<![CDATA[", "]]>"


class ArgumentsReader(Protocol):
    """Takes text and tells JSON.

    Attributes:
        is_done: whether the arguments have ended.
        is_broken: whether they can't be read any further.
    """

    is_done: bool
    is_broken: bool

    def take(self, text: str) -> tuple[str, int]:
        """The JSON text that became certain, and how many characters of `text` are done with."""

    def take_last(self, text: str) -> tuple[str, int]:
        """As `take`, where nothing more will come."""


def arguments_reader(form: Arguments, schema: Mapping[str, Any], closing: str) -> ArgumentsReader:
    """A reader for one call.

    Args:
        form: how arguments are written.
        schema: JSON schema of the function's parameters.
        closing: what stands behind the arguments.
    """
    match form:
        case TaggedArguments():
            return _TaggedReader(form, schema)
        case QuotedArguments():
            return BareKeyReader(form.quote)
        case PythonArguments():
            return PythonReader(schema, closing)
        case ElementArguments():
            return ElementReader(form.prefix, schema, closing)
        case _:
            assert isinstance(form, JsonArguments)
            return JsonReader()


_STRING_REST = re.compile(r'[^"\\]*')
_OUTSIDE = re.compile(r'[^"{}\[\]]*')


class JsonReader:
    """Finds the end of a JSON object; what it says is passed on as it is."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._escaped = False
        self.is_done = self.is_broken = False

    def take(self, text: str) -> tuple[str, int]:
        """See `ArgumentsReader`."""
        start = 0
        if not self._depth:
            start = len(text) - len(text.lstrip())
        end = self._scan(text, start)
        return text[start:end], end

    take_last = take

    def _scan(self, text: str, at: int) -> int:
        size = len(text)
        while at < size:
            if self._escaped:
                self._escaped = False
                at += 1
            elif self._in_string:
                at = _STRING_REST.match(text, at).end()  # type: ignore[union-attr]
                if at < size:
                    self._escaped = text[at] == "\\"
                    self._in_string = text[at] != '"'
                    at += 1
            else:
                at = _OUTSIDE.match(text, at).end()  # type: ignore[union-attr]
                if at < size and self._bracket(text[at]):
                    return at + 1
                at += 1
        return size

    def _bracket(self, character: str) -> bool:
        """Take a quote or bracket outside of a string; whether it ends the object."""
        self._in_string = character == '"'
        if character in "{[":
            self._depth += 1
        elif character in "}]":
            self._depth -= 1
            self.is_done = self._depth <= 0
        return self.is_done


class _TaggedReader:
    """Each argument between tags: a text is told while it comes, another value when it is whole."""

    def __init__(self, form: TaggedArguments, schema: Mapping[str, Any]) -> None:
        self._form = form
        self._schema = schema
        self._end = form.value_end.strip()
        self._stops = frozenset(first_mark(opening) for opening in form.openings)
        properties = schema.get("properties") or ()
        self._odd_keys = [key for key in properties if not self._stops.isdisjoint(key)]
        self._lead = form.value_end[: len(form.value_end) - len(form.value_end.lstrip())]
        self._count = 0
        self._key = ""
        self._is_text: bool | None = None
        self._step = self._take_key
        self._in_cdata = False
        self._started = False
        self.is_done = self.is_broken = False

    def take(self, text: str) -> tuple[str, int]:
        """See `ArgumentsReader`."""
        told, at = "", 0
        while not self.is_done:
            part, taken = self._step(text, at)
            told += part
            if taken < 0:
                break
            at = taken
        return told, at

    take_last = take

    # Each step gives the JSON it has and where it stands, or -1 as place where it needs more text; what
    # it has told so far must then begin the next text again, so it is told in whole steps only.

    def _take_key(self, text: str, at: int) -> tuple[str, int]:
        start = match_literal(self._form.key_start.rstrip(), text, at)
        if start is Match.MORE:
            return "", -1
        if isinstance(start, Match):
            self.is_done = True
            return ("}" if self._count else "{}"), at
        end = self._key_end(text, start)
        if end < 0:
            return "", -1
        for opening, is_text in self._form.openings.items():
            found = _match_opening(opening, text, end)
            if found is Match.MORE:
                return "", -1
            if not isinstance(found, Match):
                return self._begin(text[start:end].strip(), is_text, found)
        # An opening that was never seen, such as that of another type.
        close = text.find(">", end)
        return self._begin(text[start:end].strip(), None, close + 1) if close >= 0 else ("", -1)

    def _key_end(self, text: str, start: int) -> int:
        """Where a key ends, -1 where that isn't there yet; one that holds a mark is known by its name."""
        for key in self._odd_keys:
            if text.startswith(key, start):
                return start + len(key)
            if key.startswith(text[start:]):
                return -1
        return next((i for i in range(start, len(text)) if text[i] in self._stops), -1)

    def _begin(self, key: str, is_text: bool | None, at: int) -> tuple[str, int]:
        self._key = key
        self._kinds = kinds(property_schema(self._schema, key, self._schema), self._schema)
        self._is_text = self._kinds == {"string"} if is_text is None else is_text
        self._in_cdata = self._started = False
        self._step = self._take_text if self._is_text else self._take_value
        head = f"{', ' if self._count else '{'}{json.dumps(key, ensure_ascii=False)}: "
        self._count += 1
        return head + ('"' if self._is_text else ""), at

    def _take_text(self, text: str, at: int) -> tuple[str, int]:
        if not self._started:
            begun = text[at : at + len(_CDATA)]
            if _CDATA.startswith(begun) and len(begun) < len(_CDATA):
                return "", -1
            self._started = True
            self._in_cdata = begun == _CDATA
            at += len(_CDATA) if self._in_cdata else 0
            return "", at
        marks: tuple[str, ...] = (self._end,)
        lead = self._lead
        if self._in_cdata:
            marks, lead = (_CDATA_END + self._lead + self._end, _CDATA_END + self._end), ""
        found = [(place, mark) for mark in marks if (place := text.find(mark, at)) >= 0]
        if found:
            end, mark = min(found)
            self._step = self._take_key
            body = text[at:end]
            body = body.removesuffix(lead) if lead else body
            return _escaped(body) + '"', end + len(mark)
        safe = len(text) - max(
            overlap(text[at:], f"{before}{mark}") for mark in marks for before in {"", lead}
        )
        if lead and text[at:safe].endswith(lead):
            safe -= len(lead)
        if safe <= at:
            return "", -1
        return _escaped(text[at:safe]), safe

    def _take_value(self, text: str, at: int) -> tuple[str, int]:
        end = text.find(self._end, at)
        if end < 0:
            return "", -1
        self._step = self._take_key
        body = text[at:end]
        body = body.removesuffix(self._lead) if self._lead else body
        if body.startswith(_CDATA) and body.endswith(_CDATA_END):
            value: Any = body[len(_CDATA) : -len(_CDATA_END)]
        else:
            value = read_value(body, self._kinds)
        return json.dumps(value, ensure_ascii=False), end + len(self._end)


def _match_opening(opening: str, text: str, at: int) -> int | Match:
    """As `match_literal`, but of the white space behind it only what the form has is taken."""
    core = opening.rstrip()
    blank = opening[len(core) :]
    found = match_literal(core, text, at)
    if isinstance(found, Match) or not blank:
        return found
    if text.startswith(blank, found):
        return found + len(blank)
    return Match.MORE if blank.startswith(text[found:]) else found


def _escaped(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]
