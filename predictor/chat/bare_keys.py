"""Arguments as an object with bare keys and texts between marks of their own."""

from __future__ import annotations

import json

from predictor.chat.escapes import MORE, json_text
from predictor.chat.literals import Container, LiteralReader, skipped
from predictor.chat.matching import overlap


class BareKeyReader(LiteralReader):
    """An object with bare keys, and texts between marks of their own, in which everything stands for itself.

    Args:
        mark: stands before and behind each text.
    """

    def __init__(self, mark: str) -> None:
        super().__init__()
        self._mark = mark

    def _take_opening(self, text: str, at: int) -> tuple[str, int]:
        at = skipped(text, at)
        if at == len(text):
            return "", MORE
        if text[at] != "{":
            return self._fail(at)
        return self._enter(Container("}", is_object=True), at + 1)

    def _take_key(self, text: str, at: int) -> tuple[str, int]:
        for mark in (self._mark, '"'):
            if text.startswith(mark, at):
                end = text.find(mark, at + len(mark))
                colon = skipped(text, end + len(mark))
                if end < 0 or colon >= len(text):
                    return "", MORE
                return self._begin_member(text, text[at + len(mark) : end], colon)
            if mark.startswith(text[at:]):
                return "", MORE
        colon = text.find(":", at)
        if colon < 0:
            return "", MORE
        return self._begin_member(text, text[at:colon].strip(), colon)

    def _begin_member(self, text: str, key: str, colon: int) -> tuple[str, int]:
        if text[colon] != ":" or not key:
            return self._fail(colon)
        self._step = self._take_value
        return f"{self._open[-1].lead()}{json.dumps(key, ensure_ascii=False)}: ", colon + 1

    def _begin_text(self, text: str, at: int) -> int:
        if text[at] == '"':
            self._quote = '"'
            self._step = self._take_quoted
            return at + 1
        if text.startswith(self._mark, at):
            self._step = self._take_text
            return at + len(self._mark)
        return MORE if self._mark.startswith(text[at:]) else 0

    def _take_text(self, text: str, at: int) -> tuple[str, int]:
        end = text.find(self._mark, at)
        if end >= 0:
            told, behind = self._end_text(end + len(self._mark))
            return json_text(text[at:end]) + told, behind
        safe = len(text) - overlap(text[at:], self._mark)
        return (json_text(text[at:safe]), safe) if safe > at else ("", MORE)
