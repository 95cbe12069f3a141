"""Rules for lists and objects, for notations that write values within values in the same way."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from predictor.chat.schemas import count
from predictor.chat.value_rules import Member, Place, ValueRules


class NestedRules(ValueRules):
    """What such notations have in common."""

    def _list(self, name: str, node: Mapping[str, Any], pointer: str, place: Place) -> str:
        items = node.get("items", True)
        first = node.get("prefixItems")
        if isinstance(items, list):
            first, items = items, True
        fixed = [
            self._item(f"{name}_{i}", schema, f"{pointer}/prefixItems/{i}")
            for i, schema in enumerate(first if isinstance(first, list) else [])
        ]
        item = None if items is False else self._item(f"{name}i", items, f"{pointer}/items")
        low, high = count(node.get("minItems")) or 0, count(node.get("maxItems"))
        return self._list_of(name, fixed, item, (low, high), place)

    def _object(self, name: str, node: Mapping[str, Any], pointer: str, place: Place) -> str:
        members, extra = self.members(name, node, pointer, self._member)
        return self._object_of(name, members, extra, place)

    def sequence(
        self,
        name: str,
        fixed: Sequence[str],
        item: str | None,
        counts: tuple[int, int | None],
        separator: str,
    ) -> str:
        """Items of a list with what stands between them; `fixed` are those that come first."""
        low, high = counts
        if high is not None:
            fixed = fixed[:high]
        between = f"{separator} " if separator else ""
        count = len(fixed)
        most = None if high is None else high - count
        least = max(low - count, 0)
        rest = '""'
        if item is not None and most != 0:
            start = f"{item} " if count == 0 else f"{between}{item} "
            further = (max(least - 1, 0), None if most is None else most - 1)
            rest = f"{start}({between}{item}){{{further[0]},{'' if further[1] is None else further[1]}}}"
            rest = rest if least else f"({rest})?"
        self._rules[f"{name}_rest"] = rest
        following = f"{name}_rest"
        for k in range(count - 1, -1, -1):
            rule = f"{between if k else ''}{fixed[k]} {following}"
            following = f"{name}_from{k}"
            self._rules[following] = rule if k < low else f"({rule})?"
        return following

    @abstractmethod
    def _item(self, name: str, schema: Any, pointer: str) -> str:
        """An item of a list."""

    @abstractmethod
    def _list_of(
        self, name: str, fixed: Sequence[str], item: str | None, counts: tuple[int, int | None], place: Place
    ) -> str:
        """A list of items, and the end of its place."""

    @abstractmethod
    def _member(self, name: str, key: str | None, schema: Any, pointer: str) -> str:
        """A member of an object with its key; None is any key."""

    @abstractmethod
    def _object_of(self, name: str, members: Sequence[Member], extra: str | None, place: Place) -> str:
        """An object of members, and the end of its place."""
