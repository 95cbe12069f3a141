"""Prefixes on disk: what is written comes back, and nothing else does."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import time
from pathlib import Path

import numpy as np
import pytest

from predictor.engine.host_cache import SavedPrefix
from predictor.engine.prefix_file import BadPrefixFileError
from predictor.engine.prefix_store import SUFFIX, PrefixStore

KEY = "model"


def saved(*tokens: int, size: int = 1000) -> SavedPrefix:
    return SavedPrefix(list(tokens), np.arange(size, dtype=np.int64).astype(np.uint8) ^ tokens[0])


def files(folder: Path) -> list[Path]:
    return sorted((folder / KEY).glob("*"))


def test_what_is_saved_is_loaded_with_the_most_useful_last(tmp_path: Path) -> None:
    prefixes = [saved(1, 2, 3), saved(4, 5)]
    assert PrefixStore(tmp_path, KEY, 10_000).save(prefixes) == 2
    os.utime(next(f for f in files(tmp_path) if b"2" in f.read_bytes()[:200]), None)
    loaded = PrefixStore(tmp_path, KEY, 10_000).load()
    assert {tuple(p.tokens) for p in loaded} == {(1, 2, 3), (4, 5)}
    for prefix in loaded:
        original = next(p for p in prefixes if p.tokens == prefix.tokens)
        assert np.array_equal(prefix.read(), original.state)
        assert prefix.memory_bytes == 0
    assert all(file.suffix == SUFFIX for file in files(tmp_path))


def test_another_models_files_are_not_seen(tmp_path: Path) -> None:
    PrefixStore(tmp_path, "other", 10_000).save([saved(1)])
    assert PrefixStore(tmp_path, KEY, 10_000).load() == []


def test_an_adapters_prefixes_belong_to_its_content_not_to_its_name(tmp_path: Path) -> None:
    keys = {"a": "content of a", "b": "content of b"}
    prefixes = [SavedPrefix([1, 2], saved(1).state, adapter) for adapter in (None, "a", "b")]
    assert PrefixStore(tmp_path, KEY, 10_000, keys).save(prefixes) == 3
    assert {p.adapter for p in PrefixStore(tmp_path, KEY, 10_000, keys).load()} == {None, "a", "b"}
    renamed = PrefixStore(tmp_path, KEY, 10_000, {"a": "content of b", "c": "something new"})
    assert {p.adapter for p in renamed.load()} == {None, "a"}
    assert [p.adapter for p in PrefixStore(tmp_path, KEY, 10_000).load()] == [None]


def test_a_file_renamed_into_another_models_folder_is_ignored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    PrefixStore(tmp_path, "other", 10_000).save([saved(1)])
    (tmp_path / "other").rename(tmp_path / KEY)
    assert PrefixStore(tmp_path, KEY, 10_000).load() == []
    assert "another model" in caplog.text


@pytest.mark.parametrize("length", [0, 1, 50, 200, -1])
def test_a_file_cut_short_is_ignored_with_a_warning(
    tmp_path: Path, length: int, caplog: pytest.LogCaptureFixture
) -> None:
    store = PrefixStore(tmp_path, KEY, 10_000)
    store.save([saved(1, 2)])
    [file] = files(tmp_path)
    file.write_bytes(file.read_bytes()[:length])
    with caplog.at_level(logging.WARNING):
        assert store.load() == []
    assert "ignoring" in caplog.text


@pytest.mark.parametrize("content", [b"[]\n", b"{}\n", b"\xff\n", b"{" * 9000, b'{"format": 1}\n'])
def test_a_foreign_file_is_ignored(tmp_path: Path, content: bytes) -> None:
    (tmp_path / KEY).mkdir()
    (tmp_path / KEY / f"x{SUFFIX}").write_bytes(content)
    assert PrefixStore(tmp_path, KEY, 10_000).load() == []


def test_absurd_sizes_in_the_header_are_not_believed(tmp_path: Path) -> None:
    store = PrefixStore(tmp_path, KEY, 10_000)
    store.save([saved(1, 2)])
    [file] = files(tmp_path)
    line, rest = file.read_bytes().split(b"\n", 1)
    for change in ({"tokens": 10**12}, {"tokens": -1}, {"state_bytes": 10**15}, {"tokens": "x"}):
        file.write_bytes(json.dumps({**json.loads(line), **change}).encode() + b"\n" + rest)
        assert store.load() == []


def test_a_damaged_state_is_found_when_it_is_read(tmp_path: Path) -> None:
    store = PrefixStore(tmp_path, KEY, 10_000)
    store.save([saved(1, 2)])
    [file] = files(tmp_path)
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)
    [prefix] = store.load()
    with pytest.raises(BadPrefixFileError, match="damaged"):
        prefix.read()
    file.unlink()
    with pytest.raises(BadPrefixFileError):
        prefix.read()


def test_the_folder_stays_within_its_limit_and_keeps_the_newest(tmp_path: Path) -> None:
    store = PrefixStore(tmp_path, KEY, 3000)
    store.save([saved(1)])
    store.save([saved(2)])
    store.save([saved(3), saved(4)])
    assert sum(file.stat().st_size for file in files(tmp_path)) <= 3000
    assert {3, 4} >= {prefix.tokens[0] for prefix in store.load()} != set()


def test_a_folder_that_cannot_be_written_costs_a_warning_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    assert PrefixStore(tmp_path / "file", KEY, 10_000).save([saved(1)]) == 0
    assert "can't be saved" in caplog.text


def test_the_most_useful_is_still_the_last_after_several_saves(tmp_path: Path) -> None:
    store = PrefixStore(tmp_path, KEY, 100_000)
    store.save([saved(3), saved(2), saved(1)])
    store.save([saved(2), saved(3), saved(1)])
    assert [prefix.tokens for prefix in PrefixStore(tmp_path, KEY, 100_000).load()] == [[1], [3], [2]]


@pytest.mark.parametrize(
    "change",
    [
        b'"tokens": 1e999',
        b'"state_bytes": 1e999',
        b'"adapter": []',
        b"[" * 4000,
        b'"tokens": ' + b"9" * 4000,
        b'"tokens": true',
    ],
)
def test_a_hostile_header_costs_its_own_file(tmp_path: Path, change: bytes) -> None:
    store = PrefixStore(tmp_path, KEY, 100_000)
    store.save([saved(1), saved(2)])
    file = files(tmp_path)[0]
    line, rest = file.read_bytes().split(b"\n", 1)
    # The last of two values with one name counts.
    file.write_bytes((line[:-1] + b", " + change + b"}" if change[:1] == b'"' else change) + b"\n" + rest)
    assert len(PrefixStore(tmp_path, KEY, 100_000).load()) == 1


def test_what_is_no_file_is_left_alone(tmp_path: Path) -> None:
    """A pipe would be waited for, a link leads elsewhere, a folder can't be unlinked."""
    store = PrefixStore(tmp_path, KEY, 3000)
    store.save([saved(1)])
    [file] = files(tmp_path)
    (tmp_path / KEY / f"link{SUFFIX}").symlink_to(file)
    (tmp_path / KEY / f"folder{SUFFIX}").mkdir()
    os.mkfifo(tmp_path / KEY / f"pipe{SUFFIX}")
    assert [prefix.tokens for prefix in store.load()] == [[1]]
    assert store.save([saved(2), saved(3), saved(4)]) == 2


def test_a_huge_file_of_somebody_else_drives_nothing_out(tmp_path: Path) -> None:
    store = PrefixStore(tmp_path, KEY, 3000)
    store.save([saved(1), saved(2)])
    huge = tmp_path / KEY / f"huge{SUFFIX}"
    with huge.open("wb") as file:
        file.truncate(2**40)
    assert len(store.load()) == 2
    assert store.save([saved(1), saved(2)]) == 2
    assert not huge.exists()


def test_a_file_that_vanishes_while_the_folder_is_listed_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process, or a person, deletes files at any moment."""
    store = PrefixStore(tmp_path, KEY, 3000)
    store.save([saved(1), saved(2)])
    scandir = os.scandir

    class Vanishing:
        """Files go as soon as their names are known."""

        def __init__(self, folder: Path) -> None:
            with scandir(folder) as entries:
                self.entries = list(entries)
            (folder / f"gone{SUFFIX}").unlink(missing_ok=True)

        def __enter__(self) -> list[os.DirEntry[str]]:
            return self.entries

        def __exit__(self, *_error: object) -> None:
            pass

    monkeypatch.setattr(os, "scandir", Vanishing)
    (tmp_path / KEY / f"gone{SUFFIX}").touch()
    assert len(store.load()) == 2
    (tmp_path / KEY / f"gone{SUFFIX}").touch()
    assert store.save([saved(3)]) == 1
    assert len(store.load()) == 2


def test_one_prefix_that_cannot_be_read_costs_itself(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = PrefixStore(tmp_path, KEY, 100_000)
    store.save([saved(1)])
    [file] = files(tmp_path)
    [stored] = store.load()
    file.unlink()
    assert store.save([stored, saved(2), saved(3)]) == 2
    assert "some prefixes can't be saved" in caplog.text


def test_a_damaged_file_is_replaced(tmp_path: Path) -> None:
    """By the process that finds it damaged, and by one that never saw it whole."""
    for second in (False, True):
        store = PrefixStore(tmp_path, KEY, 100_000)
        store.save([saved(1)])
        [file] = files(tmp_path)
        whole = file.read_bytes()
        file.write_bytes(whole[:-5] + bytes(5))
        if second:
            store = PrefixStore(tmp_path, KEY, 100_000)
        else:
            [stored] = store.load()
            with pytest.raises(BadPrefixFileError):
                stored.read()
            stored.drop()
        store.save([saved(1)])
        assert file.read_bytes() == whole


def test_what_dead_processes_were_writing_is_swept_and_living_ones_are_let_be(tmp_path: Path) -> None:
    store = PrefixStore(tmp_path, KEY, 100_000)
    store.save([saved(1)])
    dead, living = (tmp_path / KEY / name for name in ("dead.tmp", "living.tmp"))
    dead.write_bytes(b"half")
    with living.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        store.load()
        assert not dead.exists()
        assert living.exists()
        dead.write_bytes(b"half")
        store.save([])
        assert (dead.exists(), living.exists()) == (False, True)
    store.load()
    assert not living.exists()


def test_files_of_the_future_do_not_outlive_those_in_use(tmp_path: Path) -> None:
    """A clock that was set back."""
    store = PrefixStore(tmp_path, KEY, 2500)
    store.save([saved(1)])
    [old] = files(tmp_path)
    os.utime(old, (time.time() + 10**8,) * 2)
    store.save([saved(2)])
    store.save([saved(3)])
    assert sorted(prefix.tokens for prefix in store.load()) == [[2], [3]]


def test_a_known_file_is_not_read_again_and_one_that_was_replaced_is(tmp_path: Path) -> None:
    store = PrefixStore(tmp_path, KEY, 100_000)
    assert not store.holds([1], None)
    store.save([saved(1)])
    assert store.holds([1], None)
    [file] = files(tmp_path)
    content = file.read_bytes()
    file.unlink()
    assert not store.holds([1], None)
    file.write_bytes(content[:-1])
    assert not store.holds([1], None)


def test_saved_prefixes_are_for_their_owner_alone(tmp_path: Path) -> None:
    PrefixStore(tmp_path, KEY, 100_000).save([saved(1)])
    [file] = files(tmp_path)
    assert file.stat().st_mode & 0o077 == 0
    assert (tmp_path / KEY).stat().st_mode & 0o077 == 0
