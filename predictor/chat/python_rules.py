"""Rules for values as Python writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from predictor.chat.nested_rules import NestedRules
from predictor.chat.text_limits import KEYWORDS, text_limits
from predictor.chat.value_rules import Member, Place

_NUMBER = "/-?[0-9][0-9.eE+-]*/"
_NAME = "/[A-Za-z_][A-Za-z0-9_]*/"
_SEPARATOR = "/, ?/"
_PLAIN = r"/[^'\\]*/"
_COLON = "/: ?/"
# As the reader has it, a quote of a text's own kind ends it only where a separator follows.
_TEXT = (
    r"/Q(?s:[^Q\\]|\\.)(?s:[^Q\\]|\\.|Q+[^Q\\,)\]}:]|Q+\\.)*Q+|QQ/"
    r" | (/QQQ(?s:.*)QQQ/ & ~(/QQQ(?s:.*)QQQ(?s:.+)/))"
)


class PythonRules(NestedRules):
    """Values as Python or JSON writes them: the reader takes both."""

    def keywords(self, schema: Mapping[str, Any]) -> str:
        """The arguments of a call, `(key=value, ...)`."""
        members, other = self.members(self._name, schema, "", self._keyword)
        return f'"(" {self._in_order(self._name, members, other)} ")"'

    def _keyword(self, name: str, key: str | None, schema: Any, pointer: str) -> str:
        value = self.value(schema, pointer, f"{name}v", self._place_of(schema))
        return f'{_NAME} "=" {value}' if key is None else f"{self._writer.literal(key + '=')} {value}"

    def _text(self, name: str, node: Mapping[str, Any], pointer: str, place: Place) -> str:
        limits = {key: node[key] for key in KEYWORDS if key in node}
        if not limits:
            return f"{self._any_text()} {self._writer.literal(place.end)}"
        # JSON's texts are Python's, too.
        self.json(name, {"type": "string", **limits}, pointer)
        terminals, left = text_limits(node)
        if left:
            return f"{name} {self._writer.literal(place.end)}"
        # And what needs no escapes may stand between Python's own quotes.
        plain = self._writer.limited(f"{name}_q", [*terminals, _PLAIN], "'")
        return f'({name} | "\'" {plain}) {self._writer.literal(place.end)}'

    def _any_text(self) -> str:
        self._rules["PYTHON_TEXT"] = " | ".join(_TEXT.replace("Q", quote) for quote in ("'", '"'))
        return "PYTHON_TEXT"

    def _texts_of(self, value: Any, place: Place) -> list[str]:
        texts = [json.dumps(value, ensure_ascii=False), repr(value)]
        return [text for text in texts if "\\x" not in text]

    def _anything(self, place: Place) -> str:
        text = self._any_text()
        self._rules["python_value"] = (
            f'{text} | {_NUMBER} | "True" | "False" | "None" | "true" | "false" | "null"'
            f' | "[" (python_value ({_SEPARATOR} python_value)*)? "]"'
            f' | "{{" ({text} {_COLON} python_value ({_SEPARATOR} {text} {_COLON} python_value)*)? "}}"'
        )
        return f"python_value {self._writer.literal(place.end)}"

    def _item(self, name: str, schema: Any, pointer: str) -> str:
        return self.value(schema, pointer, name, self._place_of(schema))

    def _list_of(
        self, name: str, fixed: Sequence[str], item: str | None, counts: tuple[int, int | None], place: Place
    ) -> str:
        items = self.sequence(name, fixed, item, counts, _SEPARATOR)
        return f'"[" {items} "]" {self._writer.literal(place.end)}'

    def _member(self, name: str, key: str | None, schema: Any, pointer: str) -> str:
        value = self.value(schema, pointer, f"{name}v", self._place_of(schema))
        texts = [] if key is None else [self._writer.literal(text) for text in self._texts_of(key, Place())]
        return f"({' | '.join(texts) or self._any_text()}) {_COLON} {value}"

    def _object_of(self, name: str, members: Sequence[Member], extra: str | None, place: Place) -> str:
        return f'"{{" {self._in_order(name, members, extra)} "}}" {self._writer.literal(place.end)}'

    def _in_order(self, name: str, members: Sequence[Member], extra: str | None) -> str:
        """The members in their order, those that aren't required maybe missing, with separators between."""
        count = len(members)
        others = f"({_SEPARATOR} {extra})*" if extra else '""'
        self._rules[f"{name}_first_{count}"] = f"({extra} {others})?" if extra else '""'
        self._rules[f"{name}_more_{count}"] = others
        for k in range(count - 1, -1, -1):
            first = f"{members[k].rule} {name}_more_{k + 1}"
            is_required = members[k].is_required
            self._rules[f"{name}_first_{k}"] = first if is_required else f"{first} | {name}_first_{k + 1}"
            more = f"{_SEPARATOR} {first}"
            self._rules[f"{name}_more_{k}"] = more if is_required else f"{more} | {name}_more_{k + 1}"
        return f"{name}_first_0"
