"""Reads the header of a GGUF file without llama.cpp.

The file is untrusted: every count and length is checked against the file's size before it is used, and
large arrays (the vocabulary) are skipped, so that a header costs milliseconds and little memory.
Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, limits as in llama.cpp's `gguf.cpp`.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from predictor.errors import ModelLoadError
from predictor.models.gguf_types import FILE_TYPES, REMOVED_TENSOR_TYPES, TENSOR_TYPES

MAGIC = b"GGUF"
MAX_METADATA = 1 << 16
MAX_TENSORS = 1 << 20
MAX_KEY_BYTES = (1 << 16) - 1  # from the GGUF specification
MAX_STRING_BYTES = 1 << 24
MAX_ARRAY_STRINGS = 1 << 24
MAX_TENSOR_NAME_BYTES = 63
MAX_DIMENSIONS = 4
KEPT_ARRAY_ITEMS = 4096  # holds one value per layer, not a vocabulary

_STRING, _ARRAY = 8, 9
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")
_SCALARS = {
    number: struct.Struct("<" + code)
    for number, code in {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?"}.items()
} | {10: struct.Struct("<Q"), 11: struct.Struct("<q"), 12: struct.Struct("<d")}


@dataclass(frozen=True, slots=True)
class SkippedArray:
    """An array that was not kept: strings, or more than `KEPT_ARRAY_ITEMS` numbers."""

    length: int


Value = int | float | bool | str | tuple[int | float | bool, ...] | SkippedArray


@dataclass(frozen=True, slots=True)
class TensorHeader:
    """What a header says about one tensor.

    Attributes:
        name: such as `blk.0.attn_q.weight`.
        shape: extents, the row length first.
        kind: its `ggml_type`; a key of `TENSOR_TYPES` where this version knows it.
        size: bytes of its data; 0 for a type this version doesn't know.
    """

    name: str
    shape: tuple[int, ...]
    kind: int
    size: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What a GGUF file says about itself.

    Attributes:
        path: the file.
        version: of the GGUF format.
        metadata: key to value; large arrays are `SkippedArray`.
        tensors: in this file.
    """

    path: Path
    version: int
    metadata: Mapping[str, Value]
    tensors: tuple[TensorHeader, ...]

    @property
    def weights_bytes(self) -> int:
        """Bytes of the tensors' data, without padding."""
        return sum(tensor.size for tensor in self.tensors)

    @property
    def architecture(self) -> str:
        """Such as `llama`; empty where the file names none, as in later parts of a split."""
        value = self.metadata.get("general.architecture", "")
        return value if isinstance(value, str) else ""

    @property
    def quantisation(self) -> str:
        """Name of `general.file_type`, such as `Q4_K_M`; `unknown` where the file has none."""
        return FILE_TYPES.get(self.integer("general.file_type", -1), "unknown")

    @property
    def context_length(self) -> int:
        """Tokens the model was trained for; 0 where the file doesn't say."""
        return self.integer(f"{self.architecture}.context_length", 0)

    @property
    def layers(self) -> int:
        """Transformer blocks; 0 where the file doesn't say."""
        return self.integer(f"{self.architecture}.block_count", 0)

    @property
    def split_count(self) -> int:
        """Parts of a split model; 1 for a whole one."""
        return max(1, self.integer("split.count", 1))

    @property
    def split_number(self) -> int:
        """Which part this is, from 0."""
        return self.integer("split.no", 0)

    def integer(self, key: str, default: int) -> int:
        """The integer at `key`, or `default` where the file has none.

        Raises:
            ModelLoadError: the value is not an integer.
        """
        value = self.metadata.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise ModelLoadError(
                f"{self.path}: metadata {key} must be an integer, not {_shown(value)}; "
                "the file is damaged, get it again"
            )
        return value


def read_header(path: Path) -> GgufHeader:
    """Read a GGUF header and check that the file holds all its tensor data.

    Raises:
        ModelLoadError: the file can't be read, isn't GGUF, is damaged, or is truncated.
    """
    try:
        with path.open("rb") as file:
            start = file.read(len(MAGIC))
            _check_magic(path, start)
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _Reader(path, data).read()
    except OSError as error:
        raise ModelLoadError(f"{path} can't be read: {error.strerror or error}") from error


def _check_magic(path: Path, start: bytes) -> None:
    if start == MAGIC:
        return
    hints = {
        b"": "it is empty; the download may have failed",
        b"vers": "it looks like a Git LFS pointer: fetch the real file with `git lfs pull`",
        b"<!DO": "it is an HTML page; the download may have needed a login",
        b"PK\x03\x04": "it is a zip archive or a PyTorch checkpoint: convert it to GGUF first",
    }
    found = hints.get(
        start, f"it starts with {start!r} instead of {MAGIC!r}; convert the model to GGUF first"
    )
    raise ModelLoadError(f"{path} is not a GGUF file: {found}")


def _shown(value: object) -> str:
    return f"{value!r:.60}"


class _Reader:
    """Walks one file from front to back."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path = path
        self.data = data
        self.size = len(data)
        self.position = len(MAGIC)

    def read(self) -> GgufHeader:
        version = self.number(_U32)
        if version & 0xFFFF == 0:
            raise self.damaged(
                f"version {version:#x} means big-endian data, or none; get a little-endian file"
            )
        if version not in (2, 3):
            raise self.damaged(
                f"GGUF version {version} is not supported, only 2 and 3; convert the model again"
            )
        tensors = self.count("tensors", MAX_TENSORS, smallest=24)
        entries = self.count("metadata entries", MAX_METADATA, smallest=13)
        metadata: dict[str, Value] = {}
        for _ in range(entries):
            key = self.string("metadata key", MAX_KEY_BYTES)
            if not key or key in metadata:
                raise self.damaged(f"metadata key {_shown(key)} is empty or repeated")
            metadata[key] = self.value(key)
        found, end = self.tensors(tensors, self.alignment(metadata))
        if end > self.size:
            raise ModelLoadError(
                f"{self.path} is truncated: it has {self.size:,} bytes, its tensors need {end:,}; "
                "the download or copy was cut short, get the file again"
            )
        return GgufHeader(self.path, version, metadata, found)

    def alignment(self, metadata: Mapping[str, Value]) -> int:
        value = metadata.get("general.alignment", 32)
        if isinstance(value, bool) or not isinstance(value, int) or value <= 0 or value & (value - 1):
            raise self.damaged(f"general.alignment must be a power of two, not {_shown(value)}")
        return value

    def value(self, key: str) -> Value:
        kind = self.number(_U32)
        if kind == _STRING:
            return self.string(key, MAX_STRING_BYTES)
        if kind == _ARRAY:
            return self.array(key)
        if kind in _SCALARS:
            return self.scalar(_SCALARS[kind])
        raise self.damaged(f"metadata {_shown(key)} has the unknown type {kind}")

    def array(self, key: str) -> Value:
        kind = self.number(_U32)
        if kind == _STRING:
            return self.skip_strings(key)
        if kind not in _SCALARS:
            raise self.damaged(f"metadata {_shown(key)} is an array of the unknown type {kind}")
        layout = _SCALARS[kind]
        length = self.count(f"items in {_shown(key)}", self.size, smallest=layout.size)
        start = self.advance(length * layout.size)
        if length > KEPT_ARRAY_ITEMS:
            return SkippedArray(length)
        return tuple(item for (item,) in layout.iter_unpack(self.data[start : self.position]))

    def skip_strings(self, key: str) -> SkippedArray:
        length = self.count(f"strings in {_shown(key)}", MAX_ARRAY_STRINGS, smallest=_U64.size)
        position, last, data, unpack = self.position, self.size - _U64.size, self.data, _U64.unpack_from
        for _ in range(length):  # the hot loop: 100,000 strings and more
            if position > last:
                raise self.cut_short()
            position += 8 + unpack(data, position)[0]
        self.position = position
        self.advance(0)
        return SkippedArray(length)

    def tensors(self, count: int, alignment: int) -> tuple[tuple[TensorHeader, ...], int]:
        """All tensors, and where the last one ends in the file."""
        found: dict[str, TensorHeader] = {}
        data_end = 0
        for _ in range(count):
            tensor, offset = self.tensor(alignment)
            if tensor.name in found:
                raise self.damaged(f"tensor {_shown(tensor.name)} appears twice")
            found[tensor.name] = tensor
            data_end = max(data_end, offset + tensor.size)
        data_start = -(-self.position // alignment) * alignment
        return tuple(found.values()), data_start + data_end if count else self.position

    def tensor(self, alignment: int) -> tuple[TensorHeader, int]:
        """The next tensor and its offset into the data section."""
        name = self.string("tensor name", MAX_TENSOR_NAME_BYTES)
        dimensions = self.number(_U32)
        if dimensions > MAX_DIMENSIONS:
            raise self.damaged(f"tensor {_shown(name)} has {dimensions} dimensions, at most {MAX_DIMENSIONS}")
        shape = tuple(self.number(_U64) for _ in range(dimensions))
        elements, row = math.prod(shape), shape[0] if shape else 1
        kind, offset = self.number(_U32), self.number(_U64)
        if kind in REMOVED_TENSOR_TYPES:
            raise self.damaged(f"tensor {_shown(name)} has a type llama.cpp dropped; convert the model again")
        # A type newer than this table takes up no bytes here; llama.cpp itself decides about it.
        block, block_bytes = TENSOR_TYPES.get(kind, (1, 0))
        if elements >= 1 << 63 or row % block or offset % alignment:
            raise self.damaged(f"tensor {_shown(name)} has an impossible shape or offset")
        return TensorHeader(name, shape, kind, elements // block * block_bytes), offset

    def count(self, what: str, limit: int, *, smallest: int) -> int:
        """A count whose items take at least `smallest` bytes each, checked before anything is read."""
        number = self.number(_U64)
        if number > limit or number * smallest > self.size - self.position:
            raise self.damaged(f"it claims {number:,} {what}, more than the file can hold")
        return number

    def string(self, what: str, limit: int) -> str:
        length = self.number(_U64)
        if length > limit:
            raise self.damaged(f"{_shown(what)} is {length:,} bytes long, at most {limit:,} are allowed")
        start = self.advance(length)
        return self.data[start : self.position].decode(errors="replace")

    def number(self, layout: struct.Struct) -> int:
        return int(self.scalar(layout))

    def scalar(self, layout: struct.Struct) -> int | float | bool:
        value: int | float | bool = layout.unpack_from(self.data, self.advance(layout.size))[0]
        return value

    def advance(self, length: int) -> int:
        """Step over `length` bytes and return where they start."""
        start = self.position
        if length > self.size - start:
            raise self.cut_short()
        self.position = start + length
        return start

    def damaged(self, problem: str) -> ModelLoadError:
        return ModelLoadError(f"{self.path} is not a usable GGUF file: {problem}")

    def cut_short(self) -> ModelLoadError:
        return ModelLoadError(
            f"{self.path} is truncated or damaged: its {self.size:,} bytes end inside the header; "
            "get the file again"
        )
