"""What was looked at, how it is, and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from functools import partial

from rich.console import Console
from rich.text import Text


class Level(Enum):
    """How much it matters: the word that is shown, and its colour."""

    GOOD = ("ok", "green")
    NOTE = ("note", "yellow")
    PROBLEM = ("problem", "red")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        level: PROBLEM where something will fail, NOTE where it will be slow or surprising.
        subject: what was looked at, in a word or two.
        found: how it is.
        advice: what to do, None where nothing is to be done.
    """

    level: Level
    subject: str
    found: str
    advice: str | None = None


good = partial(Finding, Level.GOOD)
note = partial(Finding, Level.NOTE)
problem = partial(Finding, Level.PROBLEM)


def show(findings: Iterable[Finding], console: Console) -> bool:
    """Write findings as they come.

    Returns:
        Whether none was a problem.
    """
    fine = True
    for finding in findings:
        word, colour = finding.level.value
        line = Text.assemble((f"{word:<8}", colour), f"{finding.subject:<14}{finding.found}")
        console.print(line, soft_wrap=True)
        if finding.advice is not None:
            console.print(Text(f"{'':<22}-> {finding.advice}"), soft_wrap=True)
        fine = fine and finding.level is not Level.PROBLEM
    return fine
