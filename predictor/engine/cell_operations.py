"""What has to happen to llama.cpp's cells before the next decode, as the prefix cache writes it down."""

from __future__ import annotations

from dataclasses import dataclass

from predictor.engine.host_cache import Prefix


@dataclass(frozen=True, slots=True)
class CopyCells:
    """Sequence `target` shares the cells of `source` at positions start to end."""

    source: int
    target: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class DuplicateCells:
    """Sequence `target`, which has no cells, gets copies of the first `length` of `source`.

    `point` is what can't be cut, as it was behind them; None where a copy of all can be cut there.
    """

    source: int
    target: int
    length: int
    point: Prefix | None = None


@dataclass(frozen=True, slots=True)
class CutCells:
    """Sequence `sequence_id` goes back to its first `length` tokens, with `point` as in `DuplicateCells`."""

    sequence_id: int
    length: int
    point: Prefix


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


Operation = CopyCells | DuplicateCells | CutCells | RemoveCells | SaveCells
