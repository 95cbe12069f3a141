"""Saved prefixes on disk, so that a new process answers long prompts without reading them again.

The folder is a cache that other processes share, of which any may die at any write, and that people tidy up.
So one bad item costs that item: a file that is damaged, cut short, of another model or gone is skipped, and
its prefix computed and saved again. `prefix_file` has the format of a file.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from predictor.engine.host_cache import Prefix
from predictor.engine.prefix_file import (
    BadPrefixFileError,
    StoredPrefix,
    header_of,
    open_file,
    read_header,
)

logger = logging.getLogger(__name__)

SUFFIX = ".prefix"
UNFINISHED = ".tmp"
# What is wrong with the disk is wrong for every file.
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}
# Between the ages of two prefixes of one save, the most useful being the youngest.
AGE_STEP_NS = 1_000_000


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
        # Inode and size of files that this process wrote or read in whole.
        self._intact: dict[Path, tuple[int, int]] = {}

    def load(self) -> list[StoredPrefix]:
        """What is there, the longest unused first; bad files are named in the log and skipped."""
        self._sweep()
        found: list[StoredPrefix] = []
        total = 0
        for path, status in reversed(self._files()):
            if total + status.st_size <= self._max_bytes and (stored := self._open(path)) is not None:
                found.append(stored)
                total += status.st_size
        return found[::-1]

    def holds(self, tokens: Sequence[int], adapter: str | None) -> bool:
        """Whether a prefix is on disk and known to be intact, so that saving it needs no state."""
        return self._is_known(self._path(np.asarray(tokens, np.int32), adapter))

    def save(self, prefixes: Iterable[Prefix]) -> int:
        """Write prefixes, the most useful first, until the limit; the oldest others go.

        Args:
            prefixes: taken one at a time, and the state of each read only where it isn't on disk yet.

        Returns:
            How many are stored now. What can't be written is named in one warning.
        """
        kept: dict[Path, int] = {}
        problems: list[str] = []
        now = time.time_ns()

        def keep(prefix: Prefix) -> bool:
            """Whether to go on."""
            try:
                self._keep(prefix, kept, now - len(kept) * AGE_STEP_NS)
            except _FullError:
                return False
            except (OSError, BadPrefixFileError, MemoryError) as error:
                problems.append(str(error))
                return not (isinstance(error, OSError) and error.errno in _DISK_ERRORS)
            return True

        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            problems.append(str(error))
        else:
            self._sweep()
            # `map` holds no prefix while the next one is copied.
            all(map(keep, prefixes))
            self._make_room(kept, 0)
        if problems:
            logger.warning("some prefixes can't be saved in %s: %s", self._folder, problems[-1])
        return len(kept)

    def _path(self, tokens: npt.NDArray[np.int32], adapter: str | None, *, partial: bool = False) -> Path:
        content = self._adapter_keys[adapter].encode() + tokens.tobytes() + b"partial" * partial
        return self._folder / (hashlib.sha256(content).hexdigest()[:32] + SUFFIX)

    def _files(self, suffix: str = SUFFIX) -> list[tuple[Path, os.stat_result]]:
        """Files of a kind and their status, the longest unused first."""
        found = []
        try:
            with os.scandir(self._folder) as entries:
                for entry in entries:
                    with suppress(OSError):  # gone since it was listed
                        if entry.name.endswith(suffix) and entry.is_file(follow_symlinks=False):
                            found.append((Path(entry.path), entry.stat(follow_symlinks=False)))
        except FileNotFoundError:
            return []
        except OSError as error:
            logger.warning("the prefix folder %s can't be read: %s", self._folder, error)
        now = time.time_ns()
        # A clock that was set back leaves files of the future: they must not outlive all others.
        return sorted(found, key=lambda item: (item[1].st_mtime_ns <= now, item[1].st_mtime_ns))

    def _open(self, path: Path) -> StoredPrefix | None:
        try:
            with open_file(path) as file:
                header, tokens = read_header(file, self._key)
        except (OSError, BadPrefixFileError, MemoryError) as error:
            logger.warning("ignoring the saved prefix %s: %s", ascii(path.name), error)
            return None
        if header.adapter not in self._adapters:
            return None
        adapter = self._adapters[header.adapter]
        return StoredPrefix(
            path, tokens.tolist(), header.state_bytes, header.state_crc32, adapter, bool(header.partial)
        )

    def _keep(self, prefix: Prefix, kept: dict[Path, int], used_at: int) -> None:
        """Make sure that a prefix is on disk."""
        tokens = np.asarray(prefix.tokens, np.int32)
        path = self._path(tokens, prefix.adapter, partial=prefix.partial)
        used = sum(kept.values())
        if isinstance(prefix, StoredPrefix) and prefix.path == path and path.is_file():
            size = path.stat().st_size
        else:
            size = self._intact_size(path) or self._add(path, tokens, prefix, kept)
        if used + size > self._max_bytes:
            raise _FullError
        kept[path] = size
        with suppress(OSError):  # somebody else's file
            os.utime(path, ns=(used_at, used_at))

    def _add(
        self, path: Path, tokens: npt.NDArray[np.int32], prefix: Prefix, kept: Mapping[Path, int]
    ) -> int:
        """Write a prefix that isn't on disk where it fits; returns the size of its file."""
        state = prefix.read()
        if not state.nbytes:
            raise BadPrefixFileError("llama.cpp gave no state")
        adapter_key = self._adapter_keys[prefix.adapter]
        line = header_of(self._key, adapter_key, tokens, state, partial=prefix.partial).line()
        size = len(line) + tokens.nbytes + state.nbytes
        if size > self._max_bytes:
            raise BadPrefixFileError(f"one of {size:,} bytes is larger than the limit")
        if sum(kept.values()) + size <= self._max_bytes:
            self._make_room(kept, size)
            self._write(path, line, tokens, state)
        return size

    def _is_known(self, path: Path) -> bool:
        """Whether a file is still the one that was found to be intact."""
        try:
            status = path.stat(follow_symlinks=False)
        except OSError:
            return False
        return self._intact.get(path) == (status.st_ino, status.st_size)

    def _intact_size(self, path: Path) -> int:
        """Size of a file, from whomever, that holds what its name says, else 0; it is read in whole once."""
        if not self._is_known(path):
            try:
                with open_file(path) as file:
                    header, tokens = read_header(file, self._key)
                    status = os.fstat(file.fileno())
                adapter = self._adapters[header.adapter]
                if self._path(tokens, adapter, partial=bool(header.partial)) != path:
                    return 0
                StoredPrefix(path, [], header.state_bytes, header.state_crc32).read()
            except (OSError, BadPrefixFileError, MemoryError, KeyError):
                return 0
            self._intact[path] = (status.st_ino, status.st_size)
        return self._intact[path][1]

    def _write(
        self, path: Path, header: bytes, tokens: npt.NDArray[np.int32], state: npt.NDArray[np.uint8]
    ) -> None:
        with self._unfinished(path) as (temporary, file):
            for part in (header, tokens.data, state.data):
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
            status = os.fstat(file.fileno())
            temporary.replace(path)
        self._intact[path] = (status.st_ino, status.st_size)

    @contextmanager
    def _unfinished(self, path: Path) -> Iterator[tuple[Path, BinaryIO]]:
        """A file of a name that no other process takes, locked as long as this one lives; gone afterwards."""
        while True:
            descriptor, name = tempfile.mkstemp(UNFINISHED, f"{path.stem}-", self._folder)
            with suppress(OSError):  # a file system without locks
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.fstat(descriptor).st_nlink:
                break
            os.close(descriptor)  # swept between its making and its lock
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield temporary, file
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)

    def _sweep(self) -> None:
        """Delete what processes that died were writing: their locks went with them."""
        for path, _ in self._files(UNFINISHED):
            with suppress(OSError, BadPrefixFileError), open_file(path) as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()

    def _make_room(self, kept: Mapping[Path, int], size: int) -> None:
        """Delete the oldest files but those just kept, until so many bytes fit into the limit."""
        files = self._files()
        total = sum(status.st_size for _, status in files)
        # One that is larger than the limit alone is none of ours, however young it is.
        for path, status in sorted(files, key=lambda file: file[1].st_size <= self._max_bytes):
            if total + size <= self._max_bytes:
                break
            if path not in kept:
                with suppress(OSError):
                    path.unlink()
                total -= status.st_size


class _FullError(Exception):
    """What is kept fills the folder."""
