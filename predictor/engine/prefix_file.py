"""One saved prefix in a file: a JSON line with what follows and for which model, the tokens, the state.

Whatever writes to the folder may have written the file: nothing it says is believed before it is checked.
"""

from __future__ import annotations

import json
import os
import stat
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

FORMAT = "kserve-llamacpp prefix 2"
MAX_HEADER_BYTES = 4096


class BadPrefixFileError(Exception):
    """A file that isn't a saved prefix of this model."""


@dataclass(frozen=True, slots=True, eq=False)
class StoredPrefix:
    """A prefix on disk; the state is read when it is needed.

    Attributes:
        path: its file.
        tokens: from position 0 on.
        size: bytes of state.
        checksum: CRC-32 of the state.
        adapter: which adapter computed it, None for the model alone.
        partial: see `Prefix`.
    """

    path: Path
    tokens: list[int]
    size: int
    checksum: int
    adapter: str | None = None
    partial: bool = False

    @property
    def memory_bytes(self) -> int:
        """None of it is in memory."""
        return 0

    def read(self) -> npt.NDArray[np.uint8]:
        """The state.

        Raises:
            BadPrefixFileError: the file is gone, cut short or damaged.
        """
        try:
            with open_file(self.path) as file:
                file.seek(-self.size, os.SEEK_END)
                state = np.fromfile(file, np.uint8, self.size)
        except (OSError, MemoryError) as error:
            raise BadPrefixFileError(f"{self.path.name!a}: {error}") from error
        if len(state) != self.size or zlib.crc32(state.data) != self.checksum:
            raise BadPrefixFileError(f"{self.path.name!a} is damaged")
        return state

    def drop(self) -> None:
        """Delete the file, so that the next save writes it anew."""
        with suppress(OSError):
            self.path.unlink()


@dataclass(frozen=True, slots=True, eq=False)
class StoredBefore:
    """A prefix with cells that an earlier save wrote to disk: it need only be kept there."""

    tokens: list[int]
    adapter: str | None = None
    partial: bool = False
    memory_bytes: int = 0

    def read(self) -> npt.NDArray[np.uint8]:
        """Nothing.

        Raises:
            BadPrefixFileError: always; its file has gone, and the next save copies its cells.
        """
        raise BadPrefixFileError("a file was deleted during the save")

    def drop(self) -> None:
        """Nothing."""


@dataclass(frozen=True, slots=True)
class Header:
    """The first line of a file; see `read_header`."""

    key: str
    adapter: str
    tokens: int
    tokens_crc32: int
    state_bytes: int
    state_crc32: int
    partial: int = 0

    def line(self) -> bytes:
        """As it stands in a file."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        return json.dumps({"format": FORMAT} | fields).encode() + b"\n"


def header_of(
    key: str,
    adapter: str,
    tokens: npt.NDArray[np.int32],
    state: npt.NDArray[np.uint8],
    *,
    partial: bool = False,
) -> Header:
    """What a file with these tokens and this state begins with."""
    checksums = zlib.crc32(tokens.data), zlib.crc32(state.data)
    return Header(key, adapter, len(tokens), checksums[0], state.nbytes, checksums[1], int(partial))


def open_file(path: Path) -> BinaryIO:
    """Open a file to read it: nothing that is linked from elsewhere, and nothing that would block.

    Raises:
        BadPrefixFileError: it is no ordinary file.
        OSError: it can't be opened.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise BadPrefixFileError(f"{path.name!a} is no ordinary file")
    return os.fdopen(descriptor, "rb")


def read_header(file: BinaryIO, key: str) -> tuple[Header, npt.NDArray[np.int32]]:
    """The header and the tokens of an open file, whose state comes next.

    Raises:
        BadPrefixFileError: it is of another model or version, cut short, or damaged.
        OSError: it can't be read.
    """
    header = _parse(file.readline(MAX_HEADER_BYTES))
    if header.key != key:
        raise BadPrefixFileError("it belongs to another model or version")
    size = file.tell() + 4 * header.tokens + header.state_bytes
    if os.fstat(file.fileno()).st_size != size:
        raise BadPrefixFileError("it is cut short")
    if header.tokens <= 0 or header.state_bytes <= 0:
        raise BadPrefixFileError("its sizes are impossible")
    tokens = np.fromfile(file, np.int32, header.tokens)
    if len(tokens) != header.tokens or zlib.crc32(tokens.data) != header.tokens_crc32:
        raise BadPrefixFileError("it is damaged")
    return header, tokens


def _parse(line: bytes) -> Header:
    try:
        fields: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadPrefixFileError(f"its header is unreadable: {type(error).__name__}") from error
    if not isinstance(fields, Mapping) or fields.get("format") != FORMAT:
        raise BadPrefixFileError("it belongs to another model or version")
    names = {"key": str, "adapter": str, **dict.fromkeys(Header.__slots__[2:], int)}
    values: dict[str, Any] = {name: fields.get(name) for name in names}
    wrong = [name for name, kind in names.items() if type(values[name]) is not kind]
    if wrong:
        raise BadPrefixFileError(f"its header has no usable {wrong[0]}")
    return Header(**values)
