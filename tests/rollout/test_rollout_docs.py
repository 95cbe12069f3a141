"""docs/rollouts.md has every command and option of `rollout`, and the defaults that the code has."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import typer.main

from rollout.cli import app

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "rollouts.md").read_text()
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
OPTION_ROW = re.compile(r"^\| `(--[a-z-]+) [A-Z]+` \| (?:`(.+?)`|none) \|", re.M)


def options(command: str) -> dict[str, str]:
    """A command's options and their defaults, as help shows them."""
    parameters = [parameter for parameter in COMMANDS[command].params if parameter.opts[0].startswith("--")]
    return {
        parameter.opts[0]: "" if parameter.default is None else str(parameter.default)
        for parameter in parameters
    }


def test_every_option_of_start_is_listed_with_its_default() -> None:
    listed = dict(OPTION_ROW.findall(PAGE))
    elsewhere = {"--model", "--resume", "--dry-run", "--namespace", "--context"}
    assert listed == {name: default for name, default in options("start").items() if name not in elsewhere}


def test_every_command_has_its_row_with_its_options() -> None:
    rows = dict(re.findall(r"^\| `([a-z]+) NAME(.*)$", PAGE.replace("`start NAME --resume`", ""), re.M))
    assert rows.keys() == COMMANDS.keys()
    for name in COMMANDS.keys() - {"start"}:
        for option in options(name).keys() - {"--namespace", "--context"}:
            assert option in rows[name], (name, option)


def test_no_option_is_named_that_no_command_has() -> None:
    known = {option for command in COMMANDS for option in options(command)} | {"--kustomize"}
    assert set(re.findall(r"(?<![\w-])--[a-z][\w-]+", PAGE)) - known == set()
