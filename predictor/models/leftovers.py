"""What downloads of processes that died left behind: their locks are free, so it can be deleted."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

logger = logging.getLogger(__name__)

LOCK = ".lock"
# On file systems that pretend to lock, a file that is still written to must not be taken for a leftover.
STILL_SECONDS = 60


@contextmanager
def unfinished_folder(cache: Path, name: str) -> Iterator[Path]:
    """A new folder `name-...` in a cache, gone with the block unless it was moved; what the dead left goes.

    Raises:
        OSError: it can't be made.
    """
    cache.mkdir(parents=True, exist_ok=True)
    _sweep_folders(cache, name)
    descriptor, lock = _new_lock(cache, name)
    folder = lock.with_suffix("")
    try:
        folder.mkdir()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):
            lock.unlink()
        os.close(descriptor)


def sweep_hub(cache: Path, repository_folder: str) -> None:
    """Delete the unfinished files of a repository in a hub cache that no process is downloading.

    huggingface_hub locks a file's name while it downloads it, and never goes on with an unfinished one.
    """
    for file in (cache / repository_folder / "blobs").glob("*.incomplete"):
        lock = cache / ".locks" / repository_folder / f"{file.name.partition('.')[0]}{LOCK}"
        with suppress(OSError):
            still = abs(time.time() - file.stat().st_mtime) > STILL_SECONDS
            if still and _is_free(lock):
                size = file.stat().st_size
                file.unlink()
                logger.info("deleted %.0f MB that an earlier download left behind", size / 1e6)


def _new_lock(cache: Path, name: str) -> tuple[int, Path]:
    """A locked file of a new name, made before what it stands for."""
    while True:
        descriptor, path = tempfile.mkstemp(LOCK, f"{name}-", cache)
        with suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return descriptor, Path(path)
        os.close(descriptor)  # swept between its making and its lock


def _sweep_folders(cache: Path, name: str) -> None:
    for path in cache.glob(f"{name}-*"):
        lock = path if path.suffix == LOCK else path.with_name(path.name + LOCK)
        if _is_free(lock):
            logger.info("deleting what an earlier download left in %s", path)
            shutil.rmtree(path, ignore_errors=True)
            with suppress(OSError):
                lock.unlink()


def _is_free(lock: Path) -> bool:
    """Whether no living process holds a lock; one that doesn't exist is free."""
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
