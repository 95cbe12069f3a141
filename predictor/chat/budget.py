"""What one rendering of a chat template may cost.

A loop turn or a call is a step. What a step costs is the text that it handles: one that searches, copies or
compares 16 million characters takes a thousand times as long as one that looks a name up. So there are two
budgets, of steps and of characters, and each counts over the whole rendering. As everything that is built
is paid for, the second bounds what a template can keep in memory, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from jinja2.exceptions import SecurityError

MAX_STEPS = 2_000_000
MAX_CHARACTERS = 128 * 1024 * 1024
"""Characters that all steps together may handle."""
MAX_TEXT = 16 * 1024 * 1024
"""Characters in any one string that a template builds, and in the whole output."""
MAX_ITEMS = 1_000_000
_MAX_BITS = 4096
ITEM = 8
"""Characters that one item of a list costs: copying a reference is as cheap."""
PIECE = 256
"""Characters that an item costs beside its own where it becomes an object or is looked into."""


@dataclass(slots=True)
class _Budget:
    steps: int = MAX_STEPS
    characters: int = MAX_CHARACTERS


_budget: ContextVar[_Budget] = ContextVar("template_budget")


def start_budget() -> None:
    """Give the current context a full budget; to be called before each rendering."""
    _budget.set(_Budget())


def spend_steps(steps: int = 1) -> None:
    """Take steps from the budget.

    Raises:
        SecurityError: it is used up.
    """
    budget = _budget.get()
    budget.steps -= steps
    if budget.steps < 0:
        raise SecurityError(f"it takes more than {MAX_STEPS} steps")


def spend_characters(characters: int) -> None:
    """Take the characters that a step handles from the budget.

    Raises:
        SecurityError: it is used up.
    """
    budget = _budget.get()
    budget.characters -= characters
    if budget.characters < 0:
        raise SecurityError(f"it handles more than {MAX_CHARACTERS} characters")


def spend_whole(*values: Any) -> None:
    """Take all text and items in the values from the budget, nested ones too.

    A list that holds the same list many times over, level by level, is as costly as it is when written out.

    Raises:
        SecurityError: the budget is used up.
    """
    left = list(values)
    while left:
        value = left.pop()
        spend_characters(PIECE + (len(value) if isinstance(value, str) else 0))
        if isinstance(value, Mapping):
            left += value.keys()
            left += value.values()
        elif isinstance(value, list | tuple | set | frozenset):
            left += value


def spend_surface(*values: Any) -> None:
    """Take the texts and the items of lists in the values from the budget, but not what is nested in them.

    Raises:
        SecurityError: the budget is used up.
    """
    for value in values:
        if isinstance(value, str):
            spend_characters(len(value))
        elif isinstance(value, list | tuple | Mapping):
            spend_characters(len(value) * ITEM)


def counted(items: Iterable[Any], steps: int = 1) -> Iterator[Any]:
    """The items, each for some steps of the budget."""
    for item in items:
        spend_steps(steps)
        yield item


def check_length(characters: int) -> None:
    """Refuse a text of so many characters.

    Raises:
        SecurityError: it is more than `MAX_TEXT`.
    """
    if characters > MAX_TEXT:
        raise SecurityError(f"it builds a text of more than {MAX_TEXT} characters")


def bounded(value: Any) -> Any:
    """A value that a step has made, paid for.

    Raises:
        SecurityError: it is too large, or the budget is used up.
    """
    if isinstance(value, str):
        check_length(len(value))
        spend_characters(len(value))
    elif isinstance(value, list | tuple):
        if len(value) > MAX_ITEMS:
            raise SecurityError(f"it builds a list of more than {MAX_ITEMS} items")
        spend_characters(len(value) * ITEM)
    elif isinstance(value, int) and value.bit_length() > _MAX_BITS:
        raise SecurityError(f"it computes a number of more than {_MAX_BITS} bits")
    return value


def check_growth(text: str, method: str, arguments: tuple[Any, ...]) -> None:
    """Refuse a method of `text` whose result could be too large, before it is built.

    Raises:
        SecurityError: it could, or there is no telling, or the budget is used up.
    """
    spend_surface(text, *arguments)
    match method, arguments:
        case "replace", (str(old), str(new), *_):
            check_length(len(text) + text.count(old) * len(new))
        case "join", (list(parts), *_):
            check_length(len(text) * len(parts) + sum(len(part) for part in parts if isinstance(part, str)))
        case (("split" | "rsplit"), (str(separator), *_)):
            spend_characters(text.count(separator) * PIECE)
        case (("split" | "rsplit" | "splitlines"), _):
            # Only white space parts these pieces, and each has at least one character.
            spend_characters(sum(map(text.count, _SPACES)) * PIECE)
        case "expandtabs", (int(size), *_):
            check_length(len(text) + text.count("\t") * size)
        case (("format" | "format_map" | "%"), _):
            spend_whole(*arguments)
            longest = max((_text_size(argument) for argument in arguments), default=0)
            check_length(len(text) + text.count("%" if method == "%" else "{") * longest)
        case (("translate" | "encode"), _):
            raise SecurityError(f"it calls str.{method}, which chat templates have no use for")


_SPACES = "\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(
    map(chr, range(0x2000, 0x200B))
)


def _text_size(value: Any) -> int:
    """Characters of the texts in a value, as far as formatting could show them."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(_text_size(item) for item in value.values())
    if isinstance(value, list | tuple):
        return sum(_text_size(item) for item in value)
    return 0
