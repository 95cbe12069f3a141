"""How `--help` shows what an option takes: in words for people, where typer has Python's types.

Both command lines use it, the server's and that of rollouts.
"""

from __future__ import annotations

from typing import Any

from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption


class Command(TyperCommand):
    """A command whose help has words for types."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The parameters, `--help` among them."""
        return [_in_words(parameter) for parameter in super().get_params(ctx)]


class Group(TyperGroup):
    """A group of commands whose help has words for types."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The parameters, `--help` among them."""
        return [_in_words(parameter) for parameter in super().get_params(ctx)]


def _in_words(parameter: Any) -> Any:
    if isinstance(parameter, TyperOption) and parameter.metavar is None:
        parameter.metavar = _word(parameter)
    elif isinstance(parameter, TyperArgument):
        # An argument's name says what it is; its type beside it says nothing more.
        parameter.__dict__["display_type_rich"] = lambda ctx: None
    return parameter


def _word(option: TyperOption) -> str | None:
    described = option.type_descriptor
    if described.is_choice:
        return None
    if described.is_path:
        return "FILE"
    return {bool: "", int: "NUMBER", float: "NUMBER", str: "TEXT"}.get(described.annotation)
