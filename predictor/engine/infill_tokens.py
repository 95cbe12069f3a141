"""How a model that fills gaps in code is told what stands around one."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class InfillTokens:
    """Control tokens around the parts of a prompt; the text between prefix and suffix comes last.

    Attributes:
        start: what every prompt begins with: BOS, or nothing.
        prefix: before the text in front of the gap.
        suffix: before the text behind it.
        middle: where the answer begins.
        repository: before a project's name, None where the model knows only one file.
        file: before a file's name, None likewise.
    """

    start: tuple[int, ...]
    prefix: int
    suffix: int
    middle: int
    repository: int | None = None
    file: int | None = None
