"""Models split over several GGUF files.

llama.cpp finds the parts by name alone: `NAME-00001-of-00003.gguf` and so on in one folder
(`llama_split_path` in llama.cpp), and is given the first.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from predictor.errors import ModelLoadError
from predictor.models.gguf import GgufHeader, read_header

_SPLIT = re.compile(r"(?P<prefix>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")


@dataclass(frozen=True, slots=True)
class SplitName:
    """The name of one part of a split model.

    Attributes:
        prefix: everything before the part number, folders included.
        number: this part, from 1.
        count: all parts.
    """

    prefix: str
    number: int
    count: int

    @classmethod
    def parse(cls, name: str) -> SplitName | None:
        """None where the name is not that of a part."""
        match = _SPLIT.fullmatch(name)
        if match is None:
            return None
        split = cls(match["prefix"], int(match["number"]), int(match["count"]))
        return split if 1 <= split.number <= split.count else None

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all parts, the first part first."""
        return tuple(
            f"{self.prefix}-{number:05d}-of-{self.count:05d}.gguf" for number in range(1, self.count + 1)
        )


def read_parts(path: Path) -> tuple[GgufHeader, ...]:
    """Read the headers of a model: one, or one per part of a split model, the first part first.

    Args:
        path: the file, or the first part.

    Raises:
        ModelLoadError: a part is missing, damaged, or doesn't belong to the others.
    """
    first = read_header(path)
    if first.split_count == 1:
        return (first,)
    split = SplitName.parse(path.name)
    if split is None or split.count != first.split_count:
        raise ModelLoadError(
            f"{path} is part of a model split into {first.split_count} files, but its name is not "
            f"NAME-{first.split_number + 1:05d}-of-{first.split_count:05d}.gguf; "
            "give all parts their original names"
        )
    if first.split_number != 0:
        raise ModelLoadError(
            f"{path} is part {first.split_number + 1} of a split model; give the first one: {split.names[0]}"
        )
    others = tuple(read_header(path.with_name(name)) for name in split.names[1:])
    for number, part in enumerate(others, start=1):
        if (part.split_number, part.split_count) != (number, first.split_count):
            raise ModelLoadError(
                f"{part.path} doesn't belong to {path}; get all parts of the same model again"
            )
    return (first, *others)
