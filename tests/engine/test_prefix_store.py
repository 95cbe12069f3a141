"""Prefixes on disk: what is written comes back, and nothing else does."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest

from predictor.engine.host_cache import SavedPrefix
from predictor.engine.prefix_store import SUFFIX, BadPrefixFileError, PrefixStore, model_key

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


def test_the_key_tells_models_and_parameters_apart(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_bytes(bytes(100_000))
    second.write_bytes(bytes(99_999) + b"\1")
    keys = {model_key([first], "f16"), model_key([second], "f16"), model_key([first], "q8_0")}
    assert len(keys) == 3
    assert model_key([first], "f16") in keys
