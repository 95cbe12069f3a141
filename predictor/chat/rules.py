"""Rules of a grammar in llguidance's Lark-like syntax, and the texts in them.

Source of the syntax: https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from predictor.chat.form import Pattern

ControlTokens = Mapping[str, int]
"""Ids of the control tokens in a form's marks, by their text."""

_ID = r"/[A-Za-z0-9_-]{1,64}/"
_ANYTHING = r"/(?s:.*)/"


class RuleWriter:
    """Collects rules by name.

    Args:
        control: the control tokens among the texts, which a grammar must name by id.

    Attributes:
        rules: by name.
        pointers: of the rules that hold a JSON schema, where in the request it stands.
        has_limits: whether there is a rule for texts that are limited in any way.
    """

    def __init__(self, control: ControlTokens) -> None:
        self.rules: dict[str, str] = {}
        self.pointers: dict[str, str] = {}
        self.has_limits = False
        self._control = control

    def lines(self) -> list[str]:
        """The rules, one a line."""
        return [f"{name}: {rule}" for name, rule in self.rules.items()]

    def until(self, name: str, mark: str) -> str:
        """A rule for any text up to a mark, the mark included."""
        pieces = self._pieces(mark)
        at = next((i for i, piece in enumerate(pieces) if piece.startswith("<[")), None)
        if at is None:
            self.rules[f"{name}[suffix={json.dumps(mark)}]"] = _ANYTHING
        elif at == 0:
            self.rules[name] = f"{_ANYTHING} {' '.join(pieces)}"
        else:
            before = mark[: mark.find(next(t for t in self._control if t in mark))]
            self.rules[f"{name}_before[suffix={json.dumps(before)}]"] = _ANYTHING
            self.rules[name] = f"{name}_before {' '.join(pieces[at:])}"
        return name

    def limited(self, name: str, terminals: Sequence[str], mark: str) -> str:
        """As `until`, for a text that matches all of some terminals as a whole."""
        pieces = self._pieces(mark)
        at = next((i for i, piece in enumerate(pieces) if piece.startswith("<[")), len(pieces))
        self.has_limits = True
        terminal = name.upper()
        # A lazy match would end at the first mark, whether or not the text before it is long enough.
        without = f"~(/(?s:.*)/ {json.dumps(mark)} /(?s:.*)/)"
        self.rules[terminal] = " ".join([f"({' & '.join([_ANYTHING, *terminals, without])})", *pieces[:at]])
        return " ".join([terminal, *pieces[at:]])

    def pattern(self, pattern: Pattern) -> str:
        """A pattern as a part of a rule, its holes as ids."""
        return " ".join(_ID if part is None else self.literal(part) for part in pattern)

    def literal(self, text: str) -> str:
        """A text as a part of a rule."""
        return " ".join(self._pieces(text))

    def _pieces(self, text: str) -> list[str]:
        """A text as parts of a rule: control tokens by their ids, the rest quoted."""
        if not text:
            return []
        marks = [mark for mark in self._control if mark in text]
        if not marks:
            return [json.dumps(text)]
        splitting = "|".join(re.escape(mark) for mark in sorted(marks, key=len, reverse=True))
        parts = re.split(f"({splitting})", text)
        return [
            f"<[{self._control[part]}]>" if i % 2 else json.dumps(part)
            for i, part in enumerate(parts)
            if part
        ]
