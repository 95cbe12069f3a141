"""Real processes that share a prefix folder: they die at any moment, and somebody damages their files.

`survive` plays a script of that and then asks what the folder still has to do. Scripts come from hypothesis.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from predictor.engine import prefix_store
from predictor.engine.host_cache import SavedPrefix
from predictor.engine.prefix_file import BadPrefixFileError
from predictor.engine.prefix_store import SUFFIX, UNFINISHED, PrefixStore

KEY = "model"
LIMIT = 6000
PREFIXES = 9
WRONG_STATE = 99
# What a process does to a folder, as Python tells its audit hooks.
EVENTS = {"open", "os.rename", "os.remove", "os.utime", "os.scandir", "os.mkdir", "fcntl.flock"}


def tokens_of(number: int) -> list[int]:
    return list(range(number, number + 4 + number % 3))


def state_of(tokens: list[int]) -> npt.NDArray[np.uint8]:
    """What belongs to these tokens and to no others."""
    return np.random.default_rng(tokens).integers(0, 256, 300 + 190 * (tokens[0] % 7), np.uint8)


def prefix(number: int) -> SavedPrefix:
    tokens = tokens_of(number)
    return SavedPrefix(tokens, state_of(tokens))


@dataclass(frozen=True)
class Life:
    """What one process does after it has read everything that is there.

    Attributes:
        saves: numbers of the prefixes of each save.
        killed_at_event: SIGKILL at this operation on the folder.
        killed_at_byte: killed by the write that passes so many bytes of a file.
        full_at_byte: such a write fails instead.
        clock: how far its clock is off, seconds.
    """

    saves: tuple[tuple[int, ...], ...]
    killed_at_event: int | None = None
    killed_at_byte: int | None = None
    full_at_byte: int | None = None
    clock: int = 0


def live(folder: Path, life: Life) -> None:
    """Run a life in this process, which should be one of its own."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    size = life.killed_at_byte or life.full_at_byte
    if size is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL if life.killed_at_byte else signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    if life.killed_at_event is not None:
        left = life.killed_at_event

        def count(event: str, _arguments: object) -> None:
            nonlocal left
            if event in EVENTS:
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
    now = time.time_ns

    def told() -> int:
        return now() + life.clock * 10**9

    with mock.patch.object(prefix_store.time, "time_ns", told):
        store = PrefixStore(folder, KEY, LIMIT)
        read_all(store)
        for numbers in life.saves:
            store.save(map(prefix, numbers))


def read_all(store: PrefixStore) -> int:
    """Read every prefix, as an engine does: how many were whole; a wrong one ends the process."""
    whole = 0
    for stored in store.load():
        try:
            state = stored.read()
        except BadPrefixFileError:
            stored.drop()
            continue
        if not np.array_equal(state, state_of(stored.tokens)):
            sys.exit(WRONG_STATE)
        whole += 1
    return whole


def _flip(file: Path) -> None:
    if content := bytearray(file.read_bytes()):
        content[-len(content) // 3] ^= 1
        file.write_bytes(content)


def _pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def _folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def _age(seconds: float) -> Callable[[Path], None]:
    return lambda file: os.utime(file, (time.time() + seconds,) * 2)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "deleted": Path.unlink,
    "emptied": lambda file: file.write_bytes(b""),
    "cut": lambda file: os.truncate(file, file.stat().st_size // 2),
    "grown": lambda file: os.truncate(file, 2**40),
    "flipped": _flip,
    "header nested": lambda file: file.write_bytes(b"[" * 4096 + file.read_bytes()),
    "header lies": lambda file: file.write_bytes(
        file.read_bytes().replace(b'"tokens": ', b'"tokens": 1e999')
    ),
    "renamed": lambda file: file.rename(file.with_name(f"x{SUFFIX}")),
    "copied": lambda file: shutil.copy(file, file.with_name(f"copy{SUFFIX}")),
    "a pipe": _pipe,
    "a folder": _folder,
    "old": _age(-1e9),
    "of the future": _age(1e9),
    "unfinished": lambda file: shutil.copy(file, file.with_name(f"x{UNFINISHED}")),
    "the whole folder gone": lambda file: shutil.rmtree(file.parent),
}


@dataclass(frozen=True)
class Round:
    """Processes that live at the same time, and which damages are done to which files meanwhile."""

    lives: tuple[Life, ...]
    damages: tuple[tuple[str, int], ...]


_numbers = st.lists(st.integers(0, PREFIXES - 1), max_size=6, unique=True).map(tuple)
_deaths = st.one_of(
    st.just({}),
    st.builds(lambda n: {"killed_at_event": n}, st.integers(0, 60)),
    st.builds(lambda n: {"killed_at_byte": n}, st.integers(1, 1600)),
    st.builds(lambda n: {"full_at_byte": n}, st.integers(1, 1600)),
)
_lives = st.builds(
    lambda saves, death, clock: Life(saves, clock=clock, **death),
    st.lists(_numbers, min_size=1, max_size=3).map(tuple),
    _deaths,
    st.sampled_from([0, 0, -(10**7), 10**7]),
)
scripts = st.lists(
    st.builds(
        Round,
        st.lists(_lives, min_size=1, max_size=3).map(tuple),
        st.lists(st.tuples(st.sampled_from(sorted(DAMAGES)), st.integers(0, 9)), max_size=4).map(tuple),
    ),
    min_size=1,
    max_size=4,
)

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload([__name__])


def survive(folder: Path, script: list[Round]) -> Counter[str]:
    """Play a script and check what has to hold at all times and after it.

    Returns:
        How often which thing happened.
    """
    seen: Counter[str] = Counter()
    for one in script:
        processes = [_context.Process(target=live, args=(folder, life)) for life in one.lives]
        for process in processes:
            process.start()
        for kind, index in one.damages:
            with suppress(OSError):  # another process was faster
                if files := _readable_files(folder):
                    DAMAGES[kind](files[index % len(files)])
                    seen["damages"] += 1
        for process, life in zip(processes, one.lives, strict=True):
            process.join(60)
            _check_end(life, process.exitcode)
            seen["processes"] += 1
            seen["killed"] += process.exitcode != 0
    _check_end(Life(()), _exit_of(_check_folder, folder))
    return seen


def _readable_files(folder: Path) -> list[Path]:
    """Those that a damage may read or copy: no pipe, and none that has grown to a terabyte."""
    files = sorted((folder / KEY).glob(f"*{SUFFIX}"))
    return [file for file in files if file.is_file() and file.stat().st_size < 2**30]


def _check_end(life: Life, code: int | None) -> None:
    deaths = {0}
    if life.killed_at_event is not None:
        deaths.add(-signal.SIGKILL)
    if life.killed_at_byte is not None:
        deaths.add(-signal.SIGXFSZ)
    assert code != WRONG_STATE, "a prefix had another's state"
    assert code in deaths, f"{life} ended with {code}"


def _exit_of(function: Callable[[Path], None], folder: Path) -> int | None:
    process = _context.Process(target=function, args=(folder,))
    process.start()
    process.join(60)
    return process.exitcode


def _check_folder(folder: Path) -> None:
    """A new process finds nothing unfinished, and saves and reads back whatever fits."""
    store = PrefixStore(folder, KEY, LIMIT)
    read_all(store)
    numbers = [PREFIXES, *range(3)]
    blocked = [n for n in numbers if store._path(np.asarray(tokens_of(n), np.int32), None).is_dir()]
    kept = [n for n in numbers if n not in blocked]
    assert store.save(map(prefix, numbers)) == len(kept)
    found = PrefixStore(folder, KEY, LIMIT)
    assert {tuple(tokens_of(n)) for n in kept} <= {tuple(p.tokens) for p in found.load()}
    assert read_all(found) >= len(kept)
    files = [file for file in (folder / KEY).iterdir() if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= LIMIT
    assert not [file for file in files if file.name.endswith(UNFINISHED)]
