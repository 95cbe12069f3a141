"""The slot cache against a plain simulation of llama.cpp with separate cells for every sequence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from cache_scripts import scripts
from hypothesis import given, settings
from hypothesis import strategies as st

import predictor.engine.slot_cache as module
from predictor.engine.cell_operations import CutCells, DuplicateCells, RemoveCells, SaveCells
from predictor.engine.host_cache import Prefix, SavedPrefix
from predictor.engine.past import Past
from predictor.engine.radix_tree import common_prefix
from predictor.engine.slot_cache import Cuts, SlotCache

SLOT_CELLS = 20
# What layers with a sliding window look at here, and how many cells beyond it they keep.
WINDOW, SPARE = 4, 2


@pytest.fixture(autouse=True, scope="module")
def short_beginnings_are_worth_it() -> Iterator[None]:
    """Sequences here are short."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "WORTH_SAVING_TOKENS", 3)
        patch.setattr(module, "WORTH_COPYING_TOKENS", 2)
        yield


Token = tuple[str | None, int]  # with the adapter that computed its cell


def cells(tokens: list[int], adapter: str | None) -> list[Token]:
    return [(adapter, token) for token in tokens]


def groups(numbers: set[int]) -> int:
    """Runs of neighbours, which llama.cpp computes one after the other."""
    return len({number - place for place, number in enumerate(sorted(numbers))})


class Driver:
    """Runs sequences through a cache and a simulation, which does what the cache wrote down.

    Args:
        slots: how many there are.
        past: of the model.
        pool: cells of all slots together, where they share them.

    Attributes:
        cells: of each slot.
        first: the position of the first cell that a sliding window's layers still have, for each slot.
    """

    def __init__(self, slots: int = 3, past: Past = Past.ALL, pool: int | None = None) -> None:
        self.past, self.in_pool = past, pool is not None
        cuts = Cuts(past, self.least_length, self.point)
        self.cache = SlotCache(slots, SLOT_CELLS, pool=pool, save=True, cuts=cuts)
        self.cells: list[list[Token]] = [[] for _ in range(slots)]
        self.first = [0] * slots
        self.points: list[SavedPrefix] = []
        self.saved: list[SaveCells] = []
        self.running: dict[int, list[Token]] = {}
        self.adapters: dict[int, str | None] = {}

    def least_length(self, sequence_id: int) -> int:
        match self.past:
            case Past.ALL:
                return 0
            case Past.WINDOW:
                first = self.first[sequence_id]
                return first + WINDOW - 1 if first else 0
            case _:
                return len(self.cells[sequence_id])

    def point(self, tokens: Sequence[int], most: int, adapter: str | None) -> Prefix | None:
        fitting = [
            point
            for point in self.points
            if point.adapter == adapter
            and len(point.tokens) <= most
            and common_prefix(point.tokens, tokens) == len(point.tokens)
        ]
        return max(fitting, key=lambda point: len(point.tokens), default=None)

    def keep_point(self, sequence_id: int) -> None:
        self.decode()
        tokens = [token for _, token in self.cells[sequence_id]]
        if tokens and self.past is not Past.ALL:
            state = np.zeros(1, np.uint8)
            self.points.append(SavedPrefix(tokens, state, self.adapters[sequence_id], partial=True))

    def cut(self, sequence_id: int, length: int, point: Prefix | None = None) -> None:
        """What llama.cpp does, which refuses some."""
        if point is not None:
            assert cells(point.tokens, point.adapter) == self.cells[sequence_id][:length]
            self.first[sequence_id] = max(0, length - WINDOW)
        elif length:
            assert length >= self.least_length(sequence_id)
        del self.cells[sequence_id][length:]
        if not length:
            self.first[sequence_id] = 0

    def decode(self) -> None:
        """Carry the operations out; then every running sequence has the cells that it was promised."""
        for operation in self.cache.take_operations():
            match operation:
                case DuplicateCells(source, target, length, point):
                    assert self.cells[target] == []
                    self.cells[target] = list(self.cells[source])
                    self.first[target] = max(0, len(self.cells[source]) - WINDOW)
                    assert sum(map(len, self.cells)) <= self.cache.capacity
                    self.cut(target, length, point)
                    assert len(self.cells[target]) == length
                case CutCells(sequence_id, length, point):
                    self.cut(sequence_id, length, point)
                case RemoveCells(sequence_id, start, None):
                    self.cut(sequence_id, start)
                case SaveCells(sequence_id, tokens, adapter):
                    assert self.cells[sequence_id] == cells(tokens, adapter)
                    self.saved.append(operation)
                case _:
                    raise AssertionError(operation)
        for sequence_id, tokens in self.running.items():
            assert self.cells[sequence_id] == tokens

    def start(self, tokens: list[int], adapter: str | None = None) -> tuple[int, int] | None:
        match = self.cache.lookup(tokens, adapter)
        sequence_id = self.cache.start(tokens, match)
        if sequence_id is None:
            assert len(self.running) == len(self.cells) or self.in_pool
            return None
        assert match.length < len(tokens)
        self.note_start(sequence_id, tokens[: match.length], adapter)
        return sequence_id, match.length

    def restore(self, operation: SaveCells, length: int, readable: bool = True) -> None:
        saved, adapter = operation.tokens, operation.adapter
        sequence_id = self.cache.start_empty(len(saved), adapter)
        if sequence_id is None:
            self.decode()
            return
        self.decode()
        assert self.cells[sequence_id] == []
        if readable:
            self.cells[sequence_id] = cells(saved[:length], adapter)
            self.first[sequence_id] = max(0, length - WINDOW)
            self.cache.restored(sequence_id, saved, length)
            self.note_start(sequence_id, saved[:length], adapter)
        else:
            self.cache.finish(sequence_id, retain=False)

    def note_start(self, sequence_id: int, tokens: list[int], adapter: str | None) -> None:
        if not self.in_pool:
            beside = {number for number in self.running if self.adapters[number] == adapter}
            free = set(range(len(self.cells))) - self.running.keys()
            fewest = min(groups(beside | {number}) for number in free)
            assert groups(beside | {sequence_id}) == fewest
        self.running[sequence_id] = cells(tokens, adapter)
        self.adapters[sequence_id] = adapter

    def extend(self, sequence_id: int, tokens: list[int]) -> None:
        self.decode()
        tokens = tokens[: SLOT_CELLS - len(self.running[sequence_id])]
        if not self.cache.make_room(len(tokens)):
            return
        self.decode()
        computed = cells(tokens, self.adapters[sequence_id])
        self.cells[sequence_id] = self.cells[sequence_id] + computed
        self.first[sequence_id] = max(self.first[sequence_id], len(self.cells[sequence_id]) - WINDOW - SPARE)
        self.running[sequence_id] = self.running[sequence_id] + computed
        self.cache.extend(sequence_id, tokens)

    def run(self, tokens: list[int], adapter: str | None = None) -> int:
        started = self.start(tokens, adapter)
        assert started is not None
        self.extend(started[0], tokens[started[1] :])
        return started[0]

    def finish(self, sequence_id: int, retain: bool = True) -> None:
        self.cache.finish(sequence_id, retain=retain)
        del self.running[sequence_id]


def test_a_finished_prompt_is_taken_over_in_its_own_slot() -> None:
    driver = Driver()
    driver.finish(driver.run([1, 2, 3, 4]))
    assert driver.start([1, 2, 3, 9]) == (0, 3)
    assert driver.cache.take_operations() == [RemoveCells(0, 3)]


def test_the_beginning_of_a_running_sequence_is_copied() -> None:
    driver = Driver()
    driver.run([1, 2, 3, 4])
    assert driver.start([1, 2, 3, 5]) == (1, 3)
    assert driver.cache.take_operations() == [DuplicateCells(0, 1, 3)]


def test_a_slot_that_is_taken_is_saved_first() -> None:
    driver = Driver(slots=1)
    driver.finish(driver.run([1, 2, 3, 4]))
    driver.run([7, 7])
    assert driver.saved == [SaveCells(0, [1, 2, 3, 4])]


def test_what_another_slot_holds_too_is_not_saved() -> None:
    driver = Driver(slots=2)
    driver.run([1, 2, 3, 4])
    driver.finish(driver.run([1, 2, 3, 5]))
    driver.run([7, 7])
    assert driver.saved == []


def test_what_one_adapter_computed_is_not_found_for_another() -> None:
    driver = Driver(slots=1)
    driver.finish(driver.run([1, 2, 3, 4], "a"))
    found = [driver.cache.lookup([1, 2, 3, 4], adapter).length for adapter in (None, "a", "b")]
    assert found == [0, 3, 0]
    driver.run([1, 2, 3, 4])
    assert driver.saved == [SaveCells(0, [1, 2, 3, 4], "a")]


def test_the_sequences_of_an_adapter_are_neighbours() -> None:
    cache = SlotCache(6, SLOT_CELLS, adapters=("a", "b"))
    taken: dict[str | None, list[int | None]] = {None: [], "a": [], "b": []}
    for adapter in (None, "a", "b", "a", None):
        taken[adapter].append(cache.start([1, 2], cache.lookup([1, 2], adapter)))
    assert taken == {None: [0, 1], "a": [2, 3], "b": [4]}
    assert cache.start([1, 2], cache.lookup([1, 2], "a")) == 5, "then any that is free"
    assert cache.start([1, 2], cache.lookup([1, 2], "a")) is None


def test_a_saved_state_longer_than_a_slot_is_refused() -> None:
    assert Driver().cache.start_empty(SLOT_CELLS + 1) is None


def test_a_sequence_goes_on_where_its_beginning_lies_if_its_neighbours_allow() -> None:
    driver = Driver(slots=5)
    ids = [driver.run([number] * 4) for number in range(3)]
    for sequence_id in ids:
        driver.finish(sequence_id)
    driver.run([2, 2, 2, 2, 9])
    assert driver.cache.take_operations() == []
    assert list(driver.running) == [2]
    # Slot 0 is no neighbour of slot 2: its tokens are copied to one that is.
    driver.run([0, 0, 0, 0, 9])
    assert list(driver.running) == [2, 3]


def test_a_state_goes_on_where_it_ends_or_was_kept() -> None:
    driver = Driver(past=Past.PARTLY_STATE)
    first = driver.run([1, 2, 3])
    driver.keep_point(first)
    driver.extend(first, [4, 5])
    driver.finish(first)
    assert driver.cache.lookup([1, 2, 3, 4, 5, 6]).length == 5
    match = driver.cache.lookup([1, 2, 3, 4, 6])
    assert (match.length, match.shared) == (3, 4)
    driver.run([1, 2, 3, 4, 6])
    assert driver.cache.lookup([1, 2, 9]).length == 0


def test_slots_of_one_pool_make_room_for_each_other() -> None:
    driver = Driver(slots=3, past=Past.WINDOW, pool=2 * SLOT_CELLS)
    for number in range(3):
        driver.finish(driver.run([number] * 12))
    first = driver.run([9] * 12)
    driver.extend(first, [9] * 8)
    assert [saved.tokens for saved in driver.saved] == [[0] * 12, [1] * 12]
    assert driver.cache.lookup([2] * 12).length == 11


@settings(max_examples=400, deadline=None)
@given(scripts, st.integers(1, 5), st.sampled_from(Past), st.booleans())
def test_cells_and_tokens_always_agree_with_llama_cpp(
    script: list[tuple[object, ...]], slots: int, past: Past, in_pool: bool
) -> None:
    driver = Driver(slots, past, pool=2 * SLOT_CELLS if in_pool else None)
    for action, *arguments in script:
        if action == "start":
            driver.start(*arguments)
        elif action == "restore":
            if driver.saved:
                saved = driver.saved[arguments[0] % len(driver.saved)]
                length = min(arguments[1], len(saved.tokens)) if past is Past.ALL else len(saved.tokens)
                driver.restore(saved, length, arguments[2])
        elif driver.running:
            sequence_id = list(driver.running)[arguments[0] % len(driver.running)]
            if action == "extend":
                driver.extend(sequence_id, arguments[1])
                if len(arguments[1]) == 1:
                    driver.keep_point(sequence_id)
            else:
                # The engine ends sequences only between the decodes.
                driver.decode()
                driver.finish(sequence_id, arguments[1])
        assert driver.cache.pinned == sum(map(len, driver.running.values()))
        assert driver.cache.pinned <= driver.cache.used <= driver.cache.capacity
    driver.decode()
    assert driver.cache.used == sum(map(len, driver.cells))
