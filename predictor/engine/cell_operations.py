"""What has to happen to llama.cpp's cells before the next decode, as the prefix cache writes it down."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CopyCells:
    """Sequence `target` shares the cells of `source` at positions start to end."""

    source: int
    target: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class DuplicateCells:
    """Sequence `target`, which has no cells, gets copies of the first `length` of `source`."""

    source: int
    target: int
    length: int


@dataclass(frozen=True, slots=True)
class RemoveCells:
    """Sequence `sequence_id` lets go of its cells at positions start to end; end None is all the rest."""

    sequence_id: int
    start: int = 0
    end: int | None = None


@dataclass(frozen=True, slots=True)
class SaveCells:
    """The state of a sequence is worth keeping elsewhere before its cells go."""

    sequence_id: int
    tokens: list[int]
    adapter: str | None = None


Operation = CopyCells | DuplicateCells | RemoveCells | SaveCells
