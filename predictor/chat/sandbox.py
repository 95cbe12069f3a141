"""A Jinja environment for chat templates that nobody has reviewed.

Jinja's immutable sandbox keeps a template away from Python's internals and from the caller's data. It does
not keep it from using up time and memory: a nested loop or a doubled string is enough for that. So every
loop turn and every call costs a step from a budget, every string built by an operator or a call has a
largest size, worked out before it is built where one step can multiply two texts, and the filters that pad
text to any width are gone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import nodes, pass_eval_context
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, LoopControlExtension
from jinja2.filters import do_indent, make_attrgetter
from jinja2.nodes import EvalContext
from jinja2.parser import Parser
from jinja2.runtime import Context, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

MAX_STEPS = 2_000_000
MAX_TEXT = 16 * 1024 * 1024
"""Characters in any one string that a template builds, and in the whole output."""
MAX_ITEMS = 1_000_000
_MAX_EXPONENT = 64
_MAX_BITS = 4096
_MAX_INDENT = 64

_steps_left: ContextVar[list[int]] = ContextVar("template_steps_left")


def start_budget() -> None:
    """Give the current context a full budget of steps; to be called before each rendering."""
    _steps_left.set([MAX_STEPS])


def check_length(characters: int) -> None:
    """Refuse a text of so many characters.

    Raises:
        SecurityError: it is more than `MAX_TEXT`.
    """
    if characters > MAX_TEXT:
        raise SecurityError(f"it builds a text of more than {MAX_TEXT} characters")


class TemplateSandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox with the names of Hugging Face's `apply_chat_template`, and limits on work."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            # Constant folding would run filters at compile time, before any budget is there.
            optimized=False,
            extensions=[LoopControlExtension, _GenerationTag],
        )
        self.filters["tojson"] = _tojson
        self.filters["indent"] = _indent
        self.filters["replace"] = _replace
        self.filters["join"] = pass_eval_context(_join)
        for name in _PADDING_FILTERS:
            del self.filters[name]
        self.filters[_COUNTED] = _counted
        self.filters[_BOUNDED] = _bounded
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = _strftime_now

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        return _Limits().visit(tree)  # type: ignore[no-any-return]

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Apply an operator, refusing results that are far too large for a prompt."""
        if operator == "*":
            _check_repeat(left, right)
        elif operator == "**" and abs(right) > _MAX_EXPONENT:
            raise SecurityError(f"it raises a number to a power above {_MAX_EXPONENT}")
        elif operator == "%" and isinstance(left, str):
            _check_format(left)
            _check_arguments(right if isinstance(right, tuple) else (right,))
            check_growth(left, "%", (right,))
        return _bounded(super().call_binop(context, operator, left, right))

    def call(self, context: Context, obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a function or method of the template, for one step of the budget."""
        _spend_step()
        if not isinstance(obj, Macro):  # The template's own may be given any number, such as a time.
            _check_arguments((*args, *kwargs.values()))
        text = getattr(obj, "__self__", None)
        if isinstance(text, str):
            if obj.__name__ == "join" and args:
                args = (list(args[0]), *args[1:])
            check_growth(text, obj.__name__, (*args, *kwargs.values()))
        return _bounded(super().call(context, obj, *args, **kwargs))

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Let templates add to lists and take from them: they get copies, and each call costs a step."""
        return (isinstance(obj, list) and attr in ("append", "pop")) or super().is_safe_attribute(
            obj, attr, value
        )

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Let `str.format` through unless the format asks for a huge width."""
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None
        _check_format(value.__self__)

        def bounded(*args: Any, **kwargs: Any) -> str:
            check_growth(value.__self__, "format", (*args, *kwargs.values()))
            text: str = wrapped(*args, **kwargs)
            return text

        return bounded

    def call_filter(self, name: str, value: Any, args: Any = None, *rest: Any, **options: Any) -> Any:
        """Apply a filter by name, as `map` and `select` do, for one step of the budget."""
        _spend_step()
        _check_arguments(tuple(args or ()))
        return super().call_filter(name, value, args, *rest, **options)


_PADDING_FILTERS = ("batch", "center", "format", "slice", "wordwrap")
_HUGE_NUMBER = re.compile(r"\d{8,}")
_COUNTED = "_counted"
_BOUNDED = "_bounded"


class _Limits(NodeTransformer):
    """Puts the limits into a parsed template, where Jinja has no hook of its own."""

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802 - named after the node class
        self.generic_visit(node)
        node.iter = _filtered(node.iter, _COUNTED)
        return node

    def visit_Filter(self, node: nodes.Filter) -> nodes.Expr:  # noqa: N802 - named after the node class
        self.generic_visit(node)
        return _filtered(node, _BOUNDED)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Expr:  # noqa: N802 - named after the node class
        self.generic_visit(node)
        return _filtered(node, _BOUNDED)


def _filtered(node: nodes.Node, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


class _GenerationTag(Extension):
    """Passes over Hugging Face's `{% generation %}`, which only marks text for training."""

    tags = {"generation"}  # noqa: RUF012 - the base class declares it so

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _spend_step() -> None:
    budget = _steps_left.get()
    budget[0] -= 1
    if budget[0] < 0:
        raise SecurityError(f"it takes more than {MAX_STEPS} steps")


def _counted(items: Iterable[Any]) -> Iterator[Any]:
    for item in items:
        _spend_step()
        yield item


def _bounded(value: Any) -> Any:
    if isinstance(value, str):
        check_length(len(value))
    elif isinstance(value, list | tuple) and len(value) > MAX_ITEMS:
        raise SecurityError(f"it builds a list of more than {MAX_ITEMS} items")
    elif isinstance(value, int) and value.bit_length() > _MAX_BITS:
        raise SecurityError(f"it computes a number of more than {_MAX_BITS} bits")
    return value


def _is_huge(value: object) -> bool:
    return isinstance(value, int) and abs(value) > MAX_TEXT


def _check_arguments(arguments: tuple[Any, ...]) -> None:
    if any(_is_huge(argument) for argument in arguments):
        raise SecurityError(f"it passes a number above {MAX_TEXT} to a function")


def _check_format(form: str) -> None:
    if _HUGE_NUMBER.search(form):
        raise SecurityError("it formats text to a huge width")


def _check_repeat(left: Any, right: Any) -> None:
    for sequence, times in ((left, right), (right, left)):
        repeats = isinstance(sequence, str | list | tuple) and isinstance(times, int)
        if repeats and len(sequence) * times > MAX_TEXT:
            raise SecurityError(f"it repeats a value to more than {MAX_TEXT} items")


class RefusedByTemplateError(Exception):
    """A template called `raise_exception`."""


def _raise_exception(message: str) -> NoReturn:
    raise RefusedByTemplateError(message)


def _indent(text: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    _check_repeat(" " if isinstance(width, int) else width, width if isinstance(width, int) else 1)
    return do_indent(text, width, first, blank)


def _replace(value: Any, old: Any, new: Any, count: int | None = None) -> str:
    # Without autoescape, Jinja's own does the same.
    text = str(value)
    check_growth(text, "replace", (str(old), str(new)))
    return text.replace(str(old), str(new), -1 if count is None else count)


def _join(
    eval_ctx: EvalContext, items: Iterable[Any], d: str = "", attribute: str | int | None = None
) -> str:
    if attribute is not None:
        items = map(make_attrgetter(eval_ctx.environment, attribute), items)
    texts = [str(item) for item in items]
    check_growth(str(d), "join", (texts,))
    return str(d).join(texts)


def check_growth(text: str, method: str, arguments: tuple[Any, ...]) -> None:
    """Refuse a method of `text` whose result could be more than `MAX_TEXT`, before it is built.

    Raises:
        SecurityError: it could, or there is no telling.
    """
    match method, arguments:
        case "replace", (str(old), str(new), *_):
            check_length(len(text) + (text.count(old) * len(new)))
        case "join", (list(parts), *_):
            check_length(len(text) * len(parts) + sum(len(part) for part in parts if isinstance(part, str)))
        case "expandtabs", (int(size), *_):
            check_length(len(text) + text.count("\t") * size)
        case (("format" | "format_map" | "%"), _):
            longest = max((_text_size(argument) for argument in arguments), default=0)
            check_length(len(text) + text.count("%" if method == "%" else "{") * longest)
        case "translate", _:
            raise SecurityError("it calls str.translate, which can build a text of any length")


def _text_size(value: Any) -> int:
    """Characters of the longest text in a value, as far as formatting could show it."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(_text_size(item) for item in value.values())
    if isinstance(value, list | tuple):
        return sum(_text_size(item) for item in value)
    return 0


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    if indent is not None and not 0 <= indent <= _MAX_INDENT:
        raise SecurityError(f"it indents JSON by more than {_MAX_INDENT}")
    # Jinja's own filter escapes for HTML, which would change what the model reads.
    if isinstance(value, Iterator):
        value = list(value)
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
