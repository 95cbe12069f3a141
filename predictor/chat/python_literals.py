"""Arguments of a call in Python, with texts that may be quoted without escapes."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from typing import Any

from predictor.chat.escapes import MORE, unescaped
from predictor.chat.literals import BARE, NOTHING, Container, LiteralReader, checked, skipped
from predictor.chat.schemas import is_open_object

_NEXT_ARGUMENT = re.compile(r",\s*([\w.-]+)\s*=")
_CUT_ARGUMENT = re.compile(r",\s*[\w.-]*\s*\Z")
_NEXT_CALL = re.compile(r"(?:[,;]\s*)?[\w./:@-]+\(")
_CUT_CALL = re.compile(r"(?:[,;]\s*)?[\w./:@-]*\Z")
_KEY = re.compile(r"[^\s=,()\"'\[\]{}]*")


class PythonReader(LiteralReader):
    """Arguments of a call in Python, from its opening to its closing bracket.

    Templates write texts between quotes as they are. So a quote ends a text only where the call's end
    or the next argument follows.

    Args:
        schema: of the arguments; it tells the names of arguments from other words.
        closing: what stands behind the last call.
    """

    def __init__(self, schema: Mapping[str, Any], closing: str) -> None:
        super().__init__()
        # A bracket before a mark is enough.
        self._closing = closing.partition("<")[0].strip() or closing
        properties = schema.get("properties") or ()
        self._keys = None if is_open_object(schema) or not properties else frozenset(properties)
        # These are known by their names only.
        self._odd_keys = [key for key in properties if not _KEY.fullmatch(key)]

    def _take_opening(self, text: str, at: int) -> tuple[str, int]:
        at = skipped(text, at)
        if at == len(text):
            return "", MORE
        if text[at] != "(":
            return self._fail(at)
        return self._enter(Container(")", is_object=True, is_call=True), at + 1)

    def _take_key(self, text: str, at: int) -> tuple[str, int]:
        container = self._open[-1]
        if not container.is_call:
            return self._take_dict_key(text, at)
        end = _KEY.match(text, at).end()  # type: ignore[union-attr]
        for key in self._odd_keys:
            if text.startswith(key, at):
                end = at + len(key)
            elif key.startswith(text[at:]) and not self._is_last:
                return "", MORE
        mark = skipped(text, end)
        value = skipped(text, mark + 1)
        if mark < len(text) and text[mark] != "=":
            return self._fail(at)
        if value >= len(text):
            return "", MORE
        # Nothing is told of a call whose first argument has no value.
        if end == at or text[value] in ",)]}=":
            return self._fail(at)
        self._step = self._take_value
        return f"{container.lead()}{json.dumps(text[at:end], ensure_ascii=False)}: ", value

    def _take_dict_key(self, text: str, at: int) -> tuple[str, int]:
        quoted = re.compile(r"""'((?:[^'\\]|\\.)*)'\s*:|"((?:[^"\\]|\\.)*)"\s*:""", re.DOTALL).match(text, at)
        bare = re.compile(r"([^\s:,'\"{}\[\]()]+)\s*:").match(text, at)
        if quoted is None and bare is None:
            begins = text[at] in "'\"" or BARE.match(text, at)
            return ("", MORE) if begins and not self._is_last else self._fail(at)
        found = quoted or bare
        assert found is not None
        key = unescaped(next(group for group in found.groups() if group is not None))
        self._step = self._take_value
        return f"{self._open[-1].lead()}{json.dumps(key, ensure_ascii=False)}: ", found.end()

    def _begin_text(self, text: str, at: int) -> int:
        mark = text[at]
        if mark not in "'\"":
            return 0
        if len(text) < at + 3 and not self._is_last and text[at:] == mark * (len(text) - at):
            return MORE
        self._quote = mark * 3 if text.startswith(mark * 3, at) else mark
        self._step = self._take_text
        return at + len(self._quote)

    def _take_text(self, text: str, at: int) -> tuple[str, int]:
        return self._take_quoted(text, at)

    def _ends_text(self, text: str, at: int, end: int) -> bool | None:
        if len(self._quote) > 1:
            return end - at >= len(self._quote)
        if not self._open[-1].is_call:
            return super()._ends_text(text, at, end)
        rest = text[skipped(text, end) :]
        if not rest:
            return self._is_last or None
        if rest[0] == ",":
            following = _NEXT_ARGUMENT.match(rest)
            if following is not None:
                return self._keys is None or following[1] in self._keys
            return None if _CUT_ARGUMENT.match(rest) and not self._is_last else False
        return self._ends_call(rest[1:].lstrip()) if rest[0] == ")" else False

    def _ends_call(self, behind: str) -> bool | None:
        """Whether a bracket that this stands behind ends a call; None where that isn't known yet."""
        if self._is_last and not behind:
            return True
        if (self._closing and behind.startswith(self._closing)) or _NEXT_CALL.match(behind):
            return True
        is_cut = self._closing.startswith(behind) or _CUT_CALL.match(behind) is not None
        return None if is_cut and not self._is_last else False


def python_value(text: str) -> Any:
    """The value of a whole text in Python, or in JSON with some of Python; `NOTHING` where it is neither."""
    value = checked(ast.literal_eval, text)
    if value is not NOTHING or not text.startswith(("[", "{")):
        return value
    reader = PythonReader({}, "")
    told, end = reader.take_last(f"(value={text})")
    if not reader.is_done or end < len(text) + len("(value=)"):
        return NOTHING
    members = json.loads(told)
    return members["value"] if len(members) == 1 else NOTHING
