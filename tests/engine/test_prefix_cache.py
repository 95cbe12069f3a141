"""The prefix cache against a plain simulation of what llama.cpp does with cells."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cache_scripts import scripts
from hypothesis import given, settings
from hypothesis import strategies as st

import predictor.engine.prefix_cache as module
from predictor.engine.cell_operations import CopyCells, RemoveCells, SaveCells
from predictor.engine.prefix_cache import PrefixCache
from predictor.engine.radix_tree import common_prefix


@pytest.fixture(autouse=True, scope="module")
def everything_is_worth_saving() -> Iterator[None]:
    """Sequences here are short."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "WORTH_SAVING_TOKENS", 3)
        yield


Token = tuple[str | None, int]


class Cells:
    """llama.cpp's unified KV cache: per sequence, which cell stands at which position.

    A token in a cell stands with the adapter that computed it.
    """

    def __init__(self) -> None:
        self.saved: list[SaveCells] = []
        self.sequences: dict[int, dict[int, tuple[int, Token]]] = {}
        self.made = 0

    def apply(self, cache: PrefixCache) -> None:
        for operation in cache.take_operations():
            if isinstance(operation, CopyCells):
                source = self.sequences[operation.source]
                for position in range(operation.start, operation.end):
                    self.sequences.setdefault(operation.target, {})[position] = source[position]
            elif isinstance(operation, SaveCells):
                expected = [(operation.adapter, token) for token in operation.tokens]
                assert self.tokens(operation.sequence_id) == expected
                self.saved.append(operation)
            elif isinstance(operation, RemoveCells):
                held = self.sequences.get(operation.sequence_id, {})
                end = operation.end if operation.end is not None else 10**9
                for position in [p for p in held if operation.start <= p < end]:
                    del held[position]

    def compute(self, sequence_id: int, position: int, token: Token) -> None:
        held = self.sequences.setdefault(sequence_id, {})
        assert position not in held
        held[position] = (self.made, token)
        self.made += 1

    def tokens(self, sequence_id: int) -> list[Token]:
        held = self.sequences.get(sequence_id, {})
        assert sorted(held) == list(range(len(held)))
        return [held[position][1] for position in range(len(held))]

    @property
    def used(self) -> int:
        return len({cell for held in self.sequences.values() for cell in held.values()})


class Driver:
    """Runs sequences through a cache and the simulation together, checking both after every step."""

    def __init__(self, capacity: int = 60, ids: int = 5, max_retained: int | None = None) -> None:
        self.cache = PrefixCache(capacity, ids, max_retained=max_retained, save=True)
        self.cells = Cells()
        self.running: dict[int, list[int]] = {}
        self.adapters: dict[int, str | None] = {}
        self.finished = False

    def start(self, tokens: list[int], adapter: str | None = None) -> tuple[int, int] | None:
        if not tokens:
            return None
        match = self.cache.lookup(tokens, adapter)
        sequence_id, length = self.cache.start(tokens, match), match.length
        if sequence_id is None:
            return None
        assert sequence_id not in self.running
        assert length < len(tokens)
        self.running[sequence_id] = tokens[:length]
        self.adapters[sequence_id] = adapter
        self.check()
        for token in tokens[length:]:
            if not self.extend(sequence_id, [token]):
                break
        return sequence_id, length

    def restore(self, operation: SaveCells, length: int, readable: bool) -> None:
        saved, adapter = operation.tokens, operation.adapter
        sequence_id = self.cache.start_empty(len(saved), adapter)
        if sequence_id is None:
            return
        self.cells.apply(self.cache)
        assert not self.cells.sequences.get(sequence_id)
        if readable:
            for position, token in enumerate(saved[:length]):
                self.cells.compute(sequence_id, position, (adapter, token))
            self.adapters[sequence_id] = adapter
            self.cache.restored(sequence_id, saved, length)
            self.running[sequence_id] = saved[:length]
        else:
            self.cache.finish(sequence_id, retain=False)
        self.check()

    def extend(self, sequence_id: int, tokens: list[int]) -> bool:
        if not self.cache.make_room(len(tokens)):
            return False
        self.cells.apply(self.cache)
        done = self.running[sequence_id]
        for token in tokens:
            self.cells.compute(sequence_id, len(done), (self.adapters[sequence_id], token))
            done.append(token)
        self.cache.extend(sequence_id, tokens)
        self.check()
        return True

    def finish(self, sequence_id: int, retain: bool = True) -> None:
        del self.running[sequence_id]
        self.cache.finish(sequence_id, retain=retain)
        self.finished = retain
        self.check()
        self.finished = False

    def check(self) -> None:
        self.cells.apply(self.cache)
        for sequence_id, tokens in self.running.items():
            assert self.cells.tokens(sequence_id) == [(self.adapters[sequence_id], token) for token in tokens]
        assert self.cache.used == self.cells.used <= self.cache.capacity
        pinned = {
            cell
            for sequence_id in self.running
            for cell in self.cells.sequences.get(sequence_id, {}).values()
        }
        assert self.cache.pinned == len(pinned)
        assert self.cache.used - self.cache.pinned <= self.cache.max_retained or not self.finished


def test_a_finished_prompt_is_taken_over_up_to_its_last_token() -> None:
    driver = Driver()
    first, _ = driver.start([1, 2, 3, 4])
    driver.finish(first)
    assert driver.cache.lookup([1, 2, 3, 4]).length == 3
    assert driver.cache.lookup([1, 2, 9, 9]).length == 2
    assert driver.start([1, 2, 3, 9]) is not None
    assert driver.cache.hit_tokens == 3


def test_a_running_sequence_shares_what_it_has_computed_so_far() -> None:
    driver = Driver()
    driver.start([1, 2, 3, 4])
    _, cached = driver.start([1, 2, 3, 5, 6])
    assert cached == 3
    assert driver.cache.used == 4 + 2


def test_cells_held_by_a_running_sequence_are_never_evicted() -> None:
    driver = Driver(capacity=6)
    driver.start([1, 2, 3, 4])
    assert not driver.cache.make_room(3)
    assert driver.cache.make_room(2)


def test_the_longest_unused_sequence_is_evicted_first() -> None:
    driver = Driver(capacity=10)
    for tokens in ([1, 1, 1], [2, 2, 2], [3, 3, 3], [1, 1, 1], [4, 4, 4]):
        driver.finish(driver.start(tokens)[0])
    assert driver.cache.lookup([2, 2, 2]).length == 0
    assert driver.cache.lookup([1, 1, 1]).length == driver.cache.lookup([3, 3, 3]).length == 2


def test_two_equal_sequences_end_up_on_the_same_cells() -> None:
    driver = Driver()
    first, _ = driver.start([1, 2, 3])
    second, _ = driver.start([1, 2, 3])
    driver.extend(first, [7, 8])
    driver.extend(second, [7, 8, 9])
    assert driver.cache.used == 5 + 4
    driver.finish(first)
    driver.finish(second)
    assert driver.cache.used == 6
    assert driver.cache.lookup([1, 2, 3, 7, 8, 9, 0]).length == 6


def test_beyond_the_limit_retained_cells_are_saved_and_given_up() -> None:
    driver = Driver(max_retained=6)
    for tokens in ([1, 1, 1, 1], [2, 2, 2, 2]):
        driver.finish(driver.start(tokens)[0])
    assert [saved.tokens for saved in driver.cells.saved] == [[1, 1, 1, 1]]
    assert (driver.cache.lookup([1, 1, 1, 1]).length, driver.cache.lookup([2, 2, 2, 2]).length) == (0, 3)


def test_what_others_hold_too_is_not_saved() -> None:
    driver = Driver(max_retained=6)
    driver.finish(driver.start([1, 1, 1, 1, 5])[0])
    driver.finish(driver.start([1, 1, 1, 1, 6, 6])[0])
    assert driver.cells.saved == []
    assert driver.cache.lookup([1, 1, 1, 1, 6, 6]).length == 5


def test_what_one_adapter_computed_is_not_found_for_another() -> None:
    driver = Driver(max_retained=6)
    driver.finish(driver.start([1, 2, 3, 4], "a")[0])
    found = [driver.cache.lookup([1, 2, 3, 4], adapter).length for adapter in (None, "a", "b")]
    assert found == [0, 3, 0]
    driver.finish(driver.start([1, 2, 3, 4])[0])
    assert driver.cells.saved == [SaveCells(0, [1, 2, 3, 4], "a")]


def test_at_the_end_a_beginning_that_several_share_is_saved_once() -> None:
    driver = Driver()
    for last in ([5], [6], [7, 7, 7, 7]):
        driver.finish(driver.start([1, 1, 1, 1, *last])[0])
    kept = [saving.tokens for saving in driver.cache.retained()]
    assert kept == [[1, 1, 1, 1, 5], [1, 1, 1, 1, 7, 7, 7, 7]]


def test_without_reuse_nothing_is_retained() -> None:
    cache = PrefixCache(10, 2, reuse=False)
    sequence_id = cache.start([1, 2, 3], cache.lookup([1, 2, 3]))
    cache.extend(sequence_id, [1, 2, 3])
    cache.finish(sequence_id)
    assert (cache.used, cache.lookup([1, 2, 3, 4]).length) == (0, 0)


def test_common_prefix_agrees_with_a_plain_loop_over_block_edges() -> None:
    base = list(range(200))
    for length in (0, 1, 63, 64, 65, 127, 128, 199, 200):
        other = base[:length] + [-1] * (200 - length)
        assert common_prefix(base, other) == length


@settings(max_examples=400, deadline=None)
@given(scripts, st.integers(8, 40), st.integers(1, 6), st.integers(0, 40))
def test_cells_tokens_and_counts_always_agree_with_llama_cpp(
    script: list[tuple[object, ...]], capacity: int, ids: int, max_retained: int
) -> None:
    driver = Driver(capacity, ids, max_retained)
    for action, *arguments in script:
        if action == "start":
            driver.start(*arguments)
        elif action == "restore":
            if driver.cells.saved:
                saved = driver.cells.saved[arguments[0] % len(driver.cells.saved)]
                driver.restore(saved, min(arguments[1], len(saved.tokens)), arguments[2])
        elif driver.running:
            sequence_id = list(driver.running)[arguments[0] % len(driver.running)]
            if action == "extend":
                driver.extend(sequence_id, arguments[1])
            else:
                driver.finish(sequence_id, arguments[1])
    for sequence_id in list(driver.running):
        driver.finish(sequence_id, retain=False)
    assert driver.cache.pinned == 0
    assert driver.cache.make_room(capacity)
    assert driver.cache.used == 0
