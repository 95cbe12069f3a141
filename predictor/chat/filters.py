"""The filters and tests of chat templates: Hugging Face's, within the budget and keeping provenance.

A filter that isn't written here is Jinja's own. What it handles is paid for, and a text that it makes
counts as the user's unless all that it was made from is the template's own.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from jinja2 import Environment, pass_eval_context
from jinja2.exceptions import SecurityError
from jinja2.filters import FILTERS, make_attrgetter
from jinja2.nodes import EvalContext
from jinja2.runtime import Context
from jinja2.tests import TESTS

from predictor.chat.budget import MAX_TEXT, check_growth, counted, spend_surface, spend_whole
from predictor.chat.provenance import Traced, as_text, derived, from_user, join, joined

Function = Callable[..., Any]

_MAX_INDENT = 64
# They pad a text to any width.
_PADDING = ("batch", "center", "format", "slice", "wordwrap")
# These look at the items of a list, not at what is in them.
_SURFACE = {
    *("attr", "count", "d", "default", "first", "items", "last", "length", "list", "map", "random"),
    *("reject", "rejectattr", "reverse", "select", "selectattr"),
}
_COMPARING = (
    *("==", "eq", "equalto", "!=", "ne", "<", "lt", "lessthan", "<=", "le", ">", "gt", "greaterthan"),
    *(">=", "ge", "in", "lower", "upper"),
)


def filters() -> dict[str, Function]:
    """All filters by name."""
    known = {name: function for name, function in FILTERS.items() if name not in _PADDING}
    known |= {
        "indent": _indent,
        "join": pass_eval_context(_join),
        "list": lambda value: list(counted(value)),
        "replace": _replace,
        "safe": as_text,
        "tojson": _tojson,
    }
    return {name: _traced(function, surface=name in _SURFACE) for name, function in known.items()}


def tests() -> dict[str, Function]:
    """All tests by name."""
    known: dict[str, Any] = {**TESTS}
    return known | {name: _paid(known[name]) for name in _COMPARING}


def _traced(function: Function, *, surface: bool) -> Function:
    pay = spend_surface if surface else spend_whole

    @functools.wraps(function)  # This keeps Jinja's marks of what the function wants to be passed, too.
    def traced(*arguments: Any, **named: Any) -> Any:
        sources = [
            value
            for value in (*arguments, *named.values())
            if not isinstance(value, Environment | EvalContext | Context)
        ]
        pay(*sources)
        result = function(*arguments, **named)
        if not isinstance(result, str) or isinstance(result, Traced):
            return result
        return result if any(result is source for source in sources) else derived(result, *sources)

    return traced


def _paid(function: Function) -> Function:
    @functools.wraps(function)
    def paid(*arguments: Any) -> Any:
        spend_whole(*arguments)
        return function(*arguments)

    return paid


def check_repeat(left: Any, right: Any) -> None:
    """Refuse a product of a text or list and a number that is too large.

    Raises:
        SecurityError: it is.
    """
    for sequence, times in ((left, right), (right, left)):
        repeats = isinstance(sequence, str | list | tuple) and isinstance(times, int)
        if repeats and len(sequence) * times > MAX_TEXT:
            raise SecurityError(f"it repeats a value to more than {MAX_TEXT} items")


def _indent(value: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    if isinstance(width, int):
        check_repeat(" ", width)
        width = " " * width
    # A line after the last one, so that its newline is kept, as Jinja does.
    lines = joined((as_text(value), "\n")).splitlines()
    check_growth(width, "join", (lines,))
    rest = [joined((width, line)) if line or blank else line for line in lines[1:]]
    return join("\n", [joined((width, lines[0])) if first else lines[0], *rest])


def _replace(value: Any, old: Any, new: Any, count: int | None = None) -> str:
    text, old, new = as_text(value), as_text(old), as_text(new)
    check_growth(text, "replace", (old, new))
    return Traced.replace(text, old, new, -1 if count is None else count)  # type: ignore[arg-type]


def _join(
    eval_ctx: EvalContext, items: Iterable[Any], d: Any = "", attribute: str | int | None = None
) -> str:
    if attribute is not None:
        items = map(make_attrgetter(eval_ctx.environment, attribute), items)
    texts = [as_text(item) for item in items]
    check_growth(as_text(d), "join", (texts,))
    return join(as_text(d), texts)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    if indent is not None and not 0 <= indent <= _MAX_INDENT:
        raise SecurityError(f"it indents JSON by more than {_MAX_INDENT}")
    if isinstance(value, Iterator):  # as `map` and `select` make
        value = list(counted(value))
        spend_whole(value)
    # Jinja's own filter escapes for HTML, which would change what the model reads.
    text = json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
    return text if isinstance(value, str) and not isinstance(value, Traced) else from_user(text)
