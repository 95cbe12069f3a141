"""Reads arguments that are nested elements: texts are told as they come, other values when they are whole."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from predictor.chat.escapes import json_text
from predictor.chat.matching import overlap
from predictor.chat.schemas import kinds, property_schema
from predictor.chat.values import from_element


class ElementReader:
    """See `predictor.chat.arguments.ArgumentsReader`.

    Args:
        prefix: what stands before each tag's `<`.
        schema: of the arguments.
        closing: what stands behind them.
    """

    def __init__(self, prefix: str, schema: Mapping[str, Any], closing: str) -> None:
        self._prefix = prefix
        self._schema = schema
        self._closing = closing
        self._opening = re.compile(re.escape(prefix) + r"<([^<>/][^<>]*)>")
        self._count = 0
        self._key = ""
        self._step = self._take_key
        self.is_done = False
        self.is_broken = False

    def take(self, text: str) -> tuple[str, int]:
        """See `ArgumentsReader`."""
        told, at = "", 0
        while not self.is_done:
            part, end = self._step(text, at)
            if end < 0:
                break
            told += part
            at = end
        return told, at

    take_last = take

    # Each step gives the JSON it has and where it stands, or -1 where it needs more text.

    def _take_key(self, text: str, at: int) -> tuple[str, int]:
        at += len(text[at:]) - len(text[at:].lstrip())
        found = self._opening.match(text, at)
        if found is None:
            if text.startswith(self._closing, at):
                self.is_done = True
                return ("}" if self._count else "{}"), at
            rest = text[at:]
            mark = f"{self._prefix}<"
            if mark.startswith(rest) or self._closing.startswith(rest):
                return "", -1
            if rest.startswith(mark) and ">" not in rest:
                return "", -1
            # What is no element is passed over.
            place = text.find(self._prefix or "<", at + 1)
            return "", place if place >= 0 else -1
        self._key = found[1]
        is_text = kinds(property_schema(self._schema, self._key, self._schema), self._schema) == {"string"}
        self._step = self._take_text if is_text else self._take_value
        head = f"{', ' if self._count else '{'}{json.dumps(self._key, ensure_ascii=False)}: "
        self._count += 1
        return head + ('"' if is_text else ""), found.end()

    def _end(self) -> str:
        return f"{self._prefix}</{self._key}>"

    def _take_text(self, text: str, at: int) -> tuple[str, int]:
        mark = self._end()
        end = text.find(mark, at)
        if end >= 0:
            self._step = self._take_key
            return json_text(text[at:end]) + '"', end + len(mark)
        safe = len(text) - overlap(text[at:], mark)
        return (json_text(text[at:safe]), safe) if safe > at else ("", -1)

    def _take_value(self, text: str, at: int) -> tuple[str, int]:
        """An element may hold others of its own name."""
        tag = re.compile(re.escape(self._prefix) + rf"<(/?){re.escape(self._key)}>")
        depth, end, start = 1, at, at
        while depth:
            mark = tag.search(text, end)
            if mark is None:
                return "", -1
            depth += -1 if mark[1] else 1
            start, end = mark.span()
        self._step = self._take_key
        schema = property_schema(self._schema, self._key, self._schema)
        value = from_element(text[at:start], self._prefix, schema, self._schema)
        return json.dumps(value, ensure_ascii=False), end
