"""A Jinja environment for chat templates that nobody has reviewed.

Jinja's immutable sandbox keeps a template away from Python's internals and from the caller's data. It does
not keep it from using up time and memory, so all work is paid for from a budget (`predictor.chat.budget`),
and what one step could multiply is worked out before it is built. Nor does it tell the template's text from
the user's (`predictor.chat.provenance`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, NoReturn, TypeVar

from jinja2 import nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.runtime import BlockReference, Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from predictor.chat import filters
from predictor.chat.budget import (
    MAX_TEXT,
    bounded,
    check_growth,
    check_length,
    counted,
    spend_steps,
    spend_surface,
    spend_whole,
)
from predictor.chat.formatting import format_percent, format_text
from predictor.chat.provenance import Traced, as_text, derived, joined, own

_MAX_EXPONENT = 64
# What a template makes of these was paid for and traced inside, or is one of their items.
_TRACED_INSIDE = (Macro, LoopContext, BlockReference)
_CONTAINERS = (dict, list, tuple, set, LoopContext)


class TemplateSandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox with the names of Hugging Face's `apply_chat_template`, and limits on work.

    Every text that it makes knows its provenance; `generate` yields such texts.
    """

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            # Constant folding would run filters at compile time, before any budget is there.
            optimized=False,
            extensions=[LoopControlExtension, _GenerationTag],
            finalize=_output,
        )
        self.filters.clear()
        self.filters |= filters.filters()
        self.tests |= filters.tests()
        self.filters |= _LIMITS
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = _strftime_now

    @staticmethod
    def concat(pieces: Iterable[str]) -> str:
        """Join what a macro or block has written."""
        return _joined(list(pieces))

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        return _Limits().visit(tree)  # type: ignore[no-any-return]

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Let templates add to lists and take from them: they get copies."""
        is_list = isinstance(obj, list) and attr in ("append", "pop")
        return is_list or super().is_safe_attribute(obj, attr, value)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Apply an operator, refusing results that are far too large for a prompt."""
        if operator == "+" and isinstance(left, str):  # by far the most frequent
            return bounded(left + right)
        if operator == "*":
            filters.check_repeat(left, right)
        elif operator == "**" and abs(right) > _MAX_EXPONENT:
            raise SecurityError(f"it raises a number to a power above {_MAX_EXPONENT}")
        elif operator == "%" and isinstance(left, str):
            _check_format(left)
            _check_arguments(right if isinstance(right, tuple) else (right,))
            check_growth(left, "%", (right,))
            return bounded(format_percent(left, right))
        return bounded(super().call_binop(context, operator, left, right))

    def call(self, context: Context, obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a function or method of the template, for one step of the budget."""
        spend_steps()
        if not isinstance(obj, Macro):  # The template's own may be given any number, such as a time.
            _check_arguments((*args, *kwargs.values()))
        owner = getattr(obj, "__self__", None)
        if isinstance(owner, str):
            if obj.__name__ == "join" and args:
                args = ([as_text(item) for item in counted(args[0])], *args[1:])
            check_growth(owner, obj.__name__, (*args, *kwargs.values()))
            if not isinstance(owner, Traced):
                obj = getattr(own(owner), obj.__name__)
        elif isinstance(owner, list):
            spend_surface(owner)  # `pop(0)` moves all that follow.
        result = bounded(super().call(context, obj, *args, **kwargs))
        if not isinstance(result, str) or isinstance(obj, _TRACED_INSIDE) or isinstance(owner, _CONTAINERS):
            return result
        sources = (*args, *kwargs.values())
        known = isinstance(result, Traced) or any(result is source for source in sources)
        return result if known else derived(result, *sources)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Let `str.format` through unless the format asks for a huge width."""
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None
        form = value.__self__
        _check_format(form)

        def bounded_format(*args: Any, **kwargs: Any) -> str:
            check_growth(form, "format", (*args, *kwargs.values()))
            if value.__name__ == "format_map":
                (kwargs,), args = args, ()
            text: str = bounded(format_text(self, form, args, kwargs))
            return text

        bounded_format.__name__ = value.__name__
        return bounded_format

    def call_filter(self, name: str, value: Any, args: Any = None, *rest: Any, **options: Any) -> Any:
        """Apply a filter by name, as `map` and `select` do, for one step of the budget."""
        spend_steps()
        _check_arguments(tuple(args or ()))
        if name in _LIMITS:
            raise SecurityError(f"there is no filter {name!r}")
        return bounded(super().call_filter(name, value, args, *rest, **options))

    def call_test(self, name: str, *args: Any, **options: Any) -> Any:
        """Apply a test by name, as `select` does, for one step of the budget."""
        spend_steps()
        return super().call_test(name, *args, **options)


_HUGE_NUMBER = re.compile(r"\d{8,}")
# Names that no template can write.
_COUNTED, _BOUNDED, _SPENT, _CONCATENATED = "#counted", "#bounded", "#spent", "#concatenated"
_COMPARED, _SEARCHED = "#compared", "#searched"
_NODES_PER_STEP = 20
_Body = TypeVar("_Body", nodes.Macro, nodes.CallBlock)


class _Limits(NodeTransformer):
    """Puts the limits into a parsed template, where Jinja has no hook of its own."""

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802 - named after the node class
        steps = _steps(node)
        self.generic_visit(node)
        node.iter = _filtered(node.iter, _COUNTED, nodes.Const(steps))
        return node

    def visit_Macro(self, node: nodes.Macro) -> nodes.Macro:  # noqa: N802 - named after the node class
        return self._with_paid_body(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.CallBlock:  # noqa: N802 - named after the class
        return self._with_paid_body(node)

    def _with_paid_body(self, node: _Body) -> _Body:
        steps = _steps(node)
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(_filtered(nodes.Const(steps), _SPENT), lineno=node.lineno))
        return node

    def visit_Filter(self, node: nodes.Filter) -> nodes.Expr:  # noqa: N802 - named after the node class
        self.generic_visit(node)
        return _filtered(node, _BOUNDED)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Expr:  # noqa: N802 - named after the node class
        self.generic_visit(node)
        return _filtered(node, _BOUNDED) if isinstance(node.arg, nodes.Slice) else node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Expr:  # noqa: N802 - named after the node class
        self.generic_visit(node)
        return _filtered(nodes.List(node.nodes, lineno=node.lineno), _CONCATENATED)

    def visit_Compare(self, node: nodes.Compare) -> nodes.Compare:  # noqa: N802 - named after the node class
        self.generic_visit(node)
        values = [node.expr, *(operand.expr for operand in node.ops)]
        equality = all(operand.op in ("eq", "ne") for operand in node.ops)
        # To compare a value with a constant takes no longer than the constant is long.
        if equality and any(map(_is_constant, values)):
            return node
        if not _is_constant(node.expr):
            node.expr = _filtered(node.expr, _COMPARED)
        for operand in node.ops:
            if not _is_constant(operand.expr):
                is_searched = operand.op in ("in", "notin")
                operand.expr = _filtered(operand.expr, _SEARCHED if is_searched else _COMPARED)
        return node


def _is_constant(node: nodes.Expr) -> bool:
    items = getattr(node, "items", [node]) if isinstance(node, nodes.List | nodes.Tuple) else [node]
    return all(isinstance(item, nodes.Const) for item in items)


def _filtered(node: nodes.Node, name: str, *arguments: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(node, name, list(arguments), [], None, None, lineno=node.lineno)


def _steps(node: nodes.Node) -> int:
    """What one turn through a body costs: its expressions cost nothing each, so that their number does."""
    return 1 + sum(1 for _ in node.find_all(nodes.Node)) // _NODES_PER_STEP


class _GenerationTag(Extension):
    """Passes over Hugging Face's `{% generation %}`, which only marks text for training."""

    tags = {"generation"}  # noqa: RUF012 - the base class declares it so

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


# With an argument of the rendering, so that nothing is put out at compile time.
@pass_context
def _output(_: Context, value: Any) -> str:
    if not isinstance(value, str):
        spend_whole(value)
    return as_text(value)


def _concatenated(values: list[Any]) -> str:
    spend_whole(*(value for value in values if not isinstance(value, str)))
    return _joined([as_text(value) for value in values])


def _joined(texts: list[str]) -> str:
    check_length(sum(map(len, texts)))
    text: str = bounded(joined(texts))
    return text


def _compared(value: Any) -> Any:
    spend_whole(value)
    return value


def _searched(value: Any) -> Any:
    # A dictionary is looked up by its keys' hashes.
    if not isinstance(value, dict):
        spend_whole(value)
    return value


_LIMITS: dict[str, Callable[..., Any]] = {
    _COUNTED: counted,
    _BOUNDED: bounded,
    _COMPARED: _compared,
    _SEARCHED: _searched,
    _CONCATENATED: _concatenated,
    _SPENT: spend_steps,
}


def _check_arguments(arguments: tuple[Any, ...]) -> None:
    if any(isinstance(argument, int) and abs(argument) > MAX_TEXT for argument in arguments):
        raise SecurityError(f"it passes a number above {MAX_TEXT} to a function")


def _check_format(form: str) -> None:
    if _HUGE_NUMBER.search(form):
        raise SecurityError("it formats text to a huge width")


class RefusedByTemplateError(Exception):
    """A template called `raise_exception`."""


def _raise_exception(message: str) -> NoReturn:
    raise RefusedByTemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)
