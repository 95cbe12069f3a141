"""Saved prefixes: the best match, what replaces what, and the limit on memory."""

from pathlib import Path

import numpy as np

from predictor.engine.host_cache import HostCache, Prefix, SavedPrefix
from predictor.engine.prefix_file import StoredPrefix


def saved(*tokens: int, size: int = 10) -> SavedPrefix:
    return SavedPrefix(list(tokens), np.zeros(size, np.uint8))


def found(cache: HostCache, tokens: list[int], adapter: str | None = None) -> tuple[Prefix | None, int]:
    match = cache.match(tokens, adapter)
    assert match.point is None
    return match.prefix, match.length


def test_the_entry_with_the_longest_common_beginning_matches() -> None:
    cache = HostCache(100)
    short, long = saved(1, 2, 9), saved(1, 2, 3, 4)
    cache.add(short)
    cache.add(long)
    assert found(cache, [1, 2, 3, 7]) == (long, 3)
    assert found(cache, [1, 2, 9, 7]) == (short, 3)
    assert found(cache, [5]) == (None, 0)


def test_adapters_have_entries_of_their_own() -> None:
    cache = HostCache(100)
    plain, adapted = saved(1, 2), SavedPrefix([1, 2, 3], np.zeros(10, np.uint8), "a")
    cache.add(plain)
    cache.add(adapted)
    assert list(cache) == [plain, adapted]
    assert found(cache, [1, 2, 3]) == (plain, 2)
    assert found(cache, [1, 2, 3], "a") == (adapted, 3)
    assert found(cache, [1, 2, 3], "b") == (None, 0)


def test_an_entry_replaces_those_that_it_contains() -> None:
    cache = HostCache(100)
    cache.add(saved(1, 2))
    longer = saved(1, 2, 3)
    cache.add(longer)
    assert list(cache) == [longer]
    assert cache.used_bytes == 10


def stored(*tokens: int) -> StoredPrefix:
    return StoredPrefix(Path("nowhere"), list(tokens), 10, 0)


def test_an_entry_on_disk_outlives_one_in_memory_that_contains_it() -> None:
    cache = HostCache(15)
    durable, longer = stored(1, 2), saved(1, 2, 3)
    cache.add(durable)
    cache.add(longer)
    assert found(cache, [1, 2, 9]) == (longer, 2)
    cache.add(saved(5))
    assert found(cache, [1, 2, 9]) == (durable, 2)
    cache.add(stored(1, 2, 3))
    assert durable not in list(cache)


def test_the_longest_unused_goes_when_memory_runs_out() -> None:
    cache = HostCache(20)
    first, second, third = saved(1), saved(2), saved(3)
    cache.add(first)
    cache.add(second)
    cache.touch(first)
    cache.add(third)
    assert list(cache) == [first, third]
    assert cache.used_bytes == 20


def test_an_entry_larger_than_the_limit_is_not_kept() -> None:
    cache = HostCache(5)
    cache.add(saved(1))
    assert list(cache) == []
    assert cache.used_bytes == 0
