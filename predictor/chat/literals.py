"""Reads arguments in notations other than JSON, and tells them as JSON while they come."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from predictor.chat.escapes import MORE, json_text, take_escape

_BLANKS = re.compile(r"\s*")
BARE = re.compile(r"[^\s,()\[\]{}:=\"'<>]+")
_SPECIAL = {quote: re.compile(rf"[\\{quote}]") for quote in "'\""}
# What follows a quote that ends a text; any other is a part of it.
_SEPARATOR = re.compile(r"\s*[,:\])}]")

Step = Callable[[str, int], tuple[str, int]]
NOTHING = object()
"""Told apart from None, which is a value."""


@dataclass(slots=True)
class Container:
    """A list, an object or the call itself, which is open.

    Attributes:
        end: what closes it.
        is_object: whether it has keys.
        is_call: whether keys are written as in `f(key=value)`.
        count: members that have been told.
    """

    end: str
    is_object: bool
    is_call: bool = False
    count: int = 0

    def lead(self) -> str:
        """JSON before the next member."""
        self.count += 1
        return ", " if self.count > 1 else "{" if self.is_object else "["

    def tail(self) -> str:
        """JSON behind the last member."""
        opening, closing = ("{", "}") if self.is_object else ("[", "]")
        return closing if self.count else opening + closing


class LiteralReader:
    """See `predictor.chat.arguments.ArgumentsReader`; what subclasses differ in is texts and keys.

    Attributes:
        is_done: whether the arguments have ended.
        is_broken: whether they can't be read.
    """

    # Each step gives the JSON it has and where it stands, or `MORE`.

    def __init__(self) -> None:
        self._open: list[Container] = []
        self._step: Step = self._take_opening
        self._quote = ""
        self._is_last = False
        self.is_done = False
        self.is_broken = False

    def take(self, text: str) -> tuple[str, int]:
        """See `ArgumentsReader`."""
        told: list[str] = []
        at = 0
        while not self.is_done and not self.is_broken:
            part, end = self._step(text, at)
            if end == MORE:
                break
            told.append(part)
            at = end
        return "".join(told), at

    def take_last(self, text: str) -> tuple[str, int]:
        """As `take`, where nothing more will come."""
        self._is_last = True
        return self.take(text)

    def _take_opening(self, text: str, at: int) -> tuple[str, int]:
        raise NotImplementedError

    def _take_key(self, text: str, at: int) -> tuple[str, int]:
        raise NotImplementedError

    def _begin_text(self, text: str, at: int) -> int:
        """Where a text begins that is opened here, `MORE`, or 0 where none is."""
        raise NotImplementedError

    def _take_text(self, text: str, at: int) -> tuple[str, int]:
        raise NotImplementedError

    def _fail(self, at: int) -> tuple[str, int]:
        self.is_broken = True
        return "", at

    def _enter(self, container: Container, at: int) -> tuple[str, int]:
        self._open.append(container)
        self._step = self._take_member
        return "", at

    def _take_member(self, text: str, at: int) -> tuple[str, int]:
        at = skipped(text, at)
        if at == len(text):
            return "", MORE
        container = self._open[-1]
        if text[at] == container.end:
            return self._leave(at)
        if text[at] == ",":
            return "", at + 1
        if container.is_object:
            return self._take_key(text, at)
        self._step = self._take_value
        return container.lead(), at

    def _leave(self, at: int) -> tuple[str, int]:
        told = self._open.pop().tail()
        self.is_done = not self._open
        self._step = self._take_separator
        return told, at + 1

    def _take_separator(self, text: str, at: int) -> tuple[str, int]:
        at = skipped(text, at)
        if at == len(text):
            return "", MORE
        if text[at] not in (",", self._open[-1].end):
            return self._fail(at)
        self._step = self._take_member
        return "", at

    def _take_value(self, text: str, at: int) -> tuple[str, int]:
        at = skipped(text, at)
        if at == len(text):
            return "", MORE
        begun = self._begin_text(text, at)
        if begun:
            return ('"', begun) if begun != MORE else ("", MORE)
        opening = text[at]
        if opening in "[(":
            return self._enter(Container("]" if opening == "[" else ")", is_object=False), at + 1)
        if opening == "{":
            return self._enter(Container("}", is_object=True), at + 1)
        found = BARE.match(text, at)
        if found is None:
            return self._fail(at)
        if found.end() == len(text) and not self._is_last:
            return "", MORE
        value = _scalar(found[0])
        if value is NOTHING:
            return self._fail(at)
        self._step = self._take_separator
        return json.dumps(value, ensure_ascii=False), found.end()

    def _end_text(self, end: int) -> tuple[str, int]:
        self._step = self._take_separator
        return '"', end

    def _take_quoted(self, text: str, at: int) -> tuple[str, int]:
        """A text with a quote of Python's or JSON's, told as far as it is certain."""
        found = _SPECIAL[self._quote[0]].search(text, at)
        if found is None:
            return (json_text(text[at:]), len(text)) if at < len(text) else ("", MORE)
        if found.start() > at:
            return json_text(text[at : found.start()]), found.start()
        if found[0] == "\\":
            return take_escape(text, at)
        run_end = at
        while run_end < len(text) and text[run_end] == self._quote[0]:
            run_end += 1
        if run_end == len(text) and not self._is_last:
            return "", MORE
        ends = self._ends_text(text, at, run_end)
        if ends is None:
            return "", MORE
        if not ends:
            return json_text(text[at:run_end]), run_end
        inside = json_text(text[at : run_end - len(self._quote)])
        told, end = self._end_text(run_end)
        return inside + told, end

    def _ends_text(self, text: str, at: int, end: int) -> bool | None:
        """Whether the quotes between two places end a text; None where that isn't known yet."""
        if _SEPARATOR.match(text, end):
            return True
        if skipped(text, end) < len(text):
            return False
        return True if self._is_last else None


def json_value(text: str) -> Any:
    """The value of a whole text in JSON; `NOTHING` where it isn't any, or isn't finite."""
    return checked(json.loads, text)


def checked(parse: Callable[[str], Any], text: str) -> Any:
    """What a parser makes of a text; `NOTHING` where it fails or JSON can't say it."""
    try:
        value = parse(text)
        json.dumps(value, allow_nan=False)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return NOTHING
    return value


def _scalar(text: str) -> Any:
    """A number, `True`, `None` and such."""
    value = json_value(text)
    return checked(ast.literal_eval, text) if value is NOTHING else value


def skipped(text: str, at: int) -> int:
    """Where a text goes on behind white space."""
    return _BLANKS.match(text, at).end() if at < len(text) else at  # type: ignore[union-attr]
