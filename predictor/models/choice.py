"""Choosing one GGUF model among the files of a folder or a repository."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from predictor.errors import ModelReferenceError
from predictor.models.gguf_split import SplitName

logger = logging.getLogger(__name__)

# Files that come with a model and are none themselves, as llama.cpp's own downloader sees it.
_NOT_A_MODEL = ("mmproj", "imatrix")
LISTED = 30


@dataclass(frozen=True, slots=True)
class Choice:
    """One model: a file, or the parts of a split one.

    Attributes:
        parts: paths relative to the folder or repository, the first part first.
        size: bytes of the parts that are there.
        missing: parts that are not there.
    """

    parts: tuple[str, ...]
    size: int
    missing: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The file to load: the first part of a split model."""
        return self.parts[0]

    def __str__(self) -> str:
        notes = [f"{self.size / 1e9:.2f} GB"]
        if len(self.parts) > 1:
            notes.append(f"{len(self.parts)} parts")
        if self.missing:
            notes.append(f"{len(self.missing)} missing")
        return f"{self.name} ({', '.join(notes)})"


def choose_model(files: Mapping[str, int], where: str, wanted: str | None) -> Choice:
    """Pick the one model that is meant.

    Args:
        files: path relative to the folder or repository, to size in bytes.
        where: what the files belong to, for messages.
        wanted: a file name or a quantisation such as Q4_K_M; None takes the only model there is.

    Raises:
        ModelReferenceError: there is no model, several and none is meant, or parts of it are missing.
    """
    choices = _group(files)
    if not choices:
        raise ModelReferenceError(f"no GGUF file in {where}; found: {listing(files) or 'nothing'}")
    matching = choices if wanted is None else _matching(choices, wanted)
    if len(matching) != 1:
        raise ModelReferenceError(_unclear(choices, matching, where, wanted))
    [choice] = matching
    if choice.missing:
        raise ModelReferenceError(
            f"{where} has only some parts of the split model {choice.name}; "
            f"missing: {listing(choice.missing)}; get all {len(choice.parts)} parts"
        )
    reason = f"it is the only model there is in {where}"
    if wanted is not None:
        reason = f"{wanted!r} names it among {len(choices)} in {where}"
    logger.info("model file %s: %s", choice, reason)
    return choice


def listing(names: Mapping[str, int] | tuple[str, ...]) -> str:
    """Names for a message, cut off where there are too many."""
    shown = sorted(names)
    more = f" and {len(shown) - LISTED} more" if len(shown) > LISTED else ""
    return ", ".join(shown[:LISTED]) + more


def is_model_file(path: str) -> bool:
    """Whether a path's name is that of a model, rather than of something that comes with one."""
    name = PurePosixPath(path).name.lower()
    return name.endswith(".gguf") and not any(word in name for word in _NOT_A_MODEL)


def _group(files: Mapping[str, int]) -> list[Choice]:
    choices: dict[tuple[str, ...], Choice] = {}
    for path in sorted(files):
        if not is_model_file(path):
            continue
        split = SplitName.parse(path)
        parts = split.names if split else (path,)
        size = sum(files.get(part, 0) for part in parts)
        choices[parts] = Choice(parts, size, tuple(part for part in parts if part not in files))
    return list(choices.values())


def _matching(choices: list[Choice], wanted: str) -> list[Choice]:
    """Those with exactly this path; else this file name; else this quantisation in their path."""
    for names in (lambda part: part, lambda part: PurePosixPath(part).name):
        found = [choice for choice in choices if wanted in map(names, choice.parts)]
        if found:
            _refuse_later_part(found, wanted)
            return found
    # `Q4_K` must not find Q4_K_M, so an underscore may stand before the quantisation but not after it.
    tag = re.compile(rf"(?:^|[-._/]){re.escape(wanted)}(?=[-./])", re.IGNORECASE)
    return [choice for choice in choices if tag.search(choice.name)]


def _refuse_later_part(found: list[Choice], wanted: str) -> None:
    name = PurePosixPath(wanted).name
    for choice in found:
        first = PurePosixPath(choice.name).name
        if name != first:
            raise ModelReferenceError(
                f"{wanted} is a later part of a split model; give the first one: {first}"
            )


def _unclear(choices: list[Choice], matching: list[Choice], where: str, wanted: str | None) -> str:
    shown = "\n  ".join(map(str, (matching or choices)[:LISTED]))
    if wanted is None:
        problem = f"{where} holds {len(choices)} GGUF models; choose one by its file name or quantisation"
    elif matching:
        problem = f"{wanted!r} fits {len(matching)} models in {where}; give the whole file name"
    else:
        problem = f"no GGUF model in {where} fits {wanted!r}; there are"
    return f"{problem}:\n  {shown}"
