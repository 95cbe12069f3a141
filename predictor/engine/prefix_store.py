"""Saved prefixes on disk, so that a new process answers long prompts without reading them again.

Each file holds one prefix: a JSON line with what follows and for which model it holds, the tokens, the state.
A file that is damaged, cut short or of another model is ignored with a warning, and its prefix computed
again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from predictor.engine.host_cache import Prefix

logger = logging.getLogger(__name__)

FORMAT = "kserve-llamacpp prefix 1"
SUFFIX = ".prefix"
MAX_HEADER_BYTES = 4096
SAMPLE_BYTES = 1 << 20


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
    """

    path: Path
    tokens: list[int]
    size: int
    checksum: int
    adapter: str | None = None

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
            with self.path.open("rb") as file:
                file.seek(-self.size, os.SEEK_END)
                state = np.fromfile(file, np.uint8)
        except OSError as error:
            raise BadPrefixFileError(f"{self.path}: {error}") from error
        if len(state) != self.size or zlib.crc32(state.data) != self.checksum:
            raise BadPrefixFileError(f"{self.path} is damaged")
        return state


class PrefixStore:
    """A folder of saved prefixes of one model.

    Args:
        folder: made when it is missing; other models' files in it are left alone.
        key: names the model and everything else that the state depends on.
        max_bytes: most bytes of files with this key.
        adapter_keys: what names the content of each adapter, by its name in requests, which tells nothing of
            it. Prefixes of adapters that aren't there stay in the folder and are not loaded.
    """

    def __init__(
        self, folder: Path, key: str, max_bytes: int, adapter_keys: Mapping[str, str] | None = None
    ) -> None:
        self._folder = folder / key
        self._key = key
        self._max_bytes = max_bytes
        self._adapter_keys: dict[str | None, str] = {None: ""}
        self._adapter_keys.update(adapter_keys or {})
        self._adapters = {key: name for name, key in reversed(self._adapter_keys.items())}

    def load(self) -> list[StoredPrefix]:
        """What is there, the longest unused first; bad files are named in the log and skipped."""
        return [stored for path in self._files() if (stored := self._open(path)) is not None]

    def save(self, prefixes: Iterable[Prefix]) -> int:
        """Write prefixes, the most useful first, until the limit; the oldest others go.

        Returns:
            How many are stored now. A full or read-only disk ends it early with a warning.
        """
        kept: set[Path] = set()
        used = 0
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            for prefix in prefixes:
                path = self._write(prefix)
                kept.add(path)
                used += path.stat().st_size
                if used > self._max_bytes:
                    break
            self._remove_oldest(kept)
        except (OSError, BadPrefixFileError) as error:
            logger.warning("prefixes can't be saved in %s: %s", self._folder, error)
        return len(kept)

    def _files(self) -> list[Path]:
        try:
            return sorted(self._folder.glob(f"*{SUFFIX}"), key=lambda path: path.stat().st_mtime)
        except OSError as error:
            logger.warning("the prefix folder %s can't be read: %s", self._folder, error)
            return []

    def _open(self, path: Path) -> StoredPrefix | None:
        try:
            with path.open("rb") as file:
                return self._parse(path, file)
        except (OSError, BadPrefixFileError, ValueError, KeyError, TypeError) as error:
            logger.warning("ignoring the saved prefix %s: %s", path, error)
            return None

    def _parse(self, path: Path, file: BinaryIO) -> StoredPrefix | None:
        header: dict[str, Any] = json.loads(file.readline(MAX_HEADER_BYTES))
        if header["format"] != FORMAT or header["key"] != self._key:
            raise BadPrefixFileError("it belongs to another model or version")
        count, size = int(header["tokens"]), int(header["state_bytes"])
        here = file.tell()
        if count <= 0 or size <= 0 or path.stat().st_size != here + 4 * count + size:
            raise BadPrefixFileError("it is cut short")
        tokens = np.fromfile(file, np.int32, count)
        if zlib.crc32(tokens.tobytes()) != header["tokens_crc32"]:
            raise BadPrefixFileError("it is damaged")
        adapter = header.get("adapter", "")
        if adapter not in self._adapters:
            return None
        return StoredPrefix(path, tokens.tolist(), size, int(header["state_crc32"]), self._adapters[adapter])

    def _write(self, prefix: Prefix) -> Path:
        array = np.asarray(prefix.tokens, np.int32)
        adapter = self._adapter_keys[prefix.adapter]
        name = hashlib.sha256(adapter.encode() + array.tobytes()).hexdigest()[:32]
        path = self._folder / (name + SUFFIX)
        if path.exists():
            os.utime(path)
            return path
        state = prefix.read()
        header = {
            "format": FORMAT,
            "key": self._key,
            "adapter": adapter,
            "tokens": len(array),
            "tokens_crc32": zlib.crc32(array.tobytes()),
            "state_bytes": state.nbytes,
            "state_crc32": zlib.crc32(state.data),
        }
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        try:
            with temporary.open("wb") as file:
                file.write(json.dumps(header).encode() + b"\n")
                array.tofile(file)
                state.tofile(file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        return path

    def _remove_oldest(self, kept: set[Path]) -> None:
        """Keep within the limit: files that were not just written go first, the oldest before the others."""
        files = sorted(self._files(), key=lambda path: path in kept)
        total = sum(path.stat().st_size for path in files)
        for path in files:
            if total <= self._max_bytes:
                break
            total -= path.stat().st_size
            path.unlink()
            kept.discard(path)


def model_key(parts: Sequence[Path], *details: str) -> str:
    """A name for a model's content and whatever else its KV state depends on.

    Reading gigabytes would take longer than what the cache saves, so each file counts by its size and by
    samples from all over it.
    """
    digest = hashlib.sha256("\0".join(details).encode())
    for path in parts:
        size = path.stat().st_size
        digest.update(f"{size}\n".encode())
        with path.open("rb") as file:
            for position in _sample_positions(size):
                file.seek(position)
                digest.update(file.read(SAMPLE_BYTES // 16))
    return digest.hexdigest()[:32]


def _sample_positions(size: int) -> Iterator[int]:
    return iter(sorted({size * index // 64 for index in range(64)}))
