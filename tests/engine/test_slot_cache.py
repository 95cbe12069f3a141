"""The slot cache against a plain simulation of llama.cpp with separate cells for every sequence."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cache_scripts import scripts
from hypothesis import given, settings
from hypothesis import strategies as st

import predictor.engine.slot_cache as module
from predictor.engine.cell_operations import DuplicateCells, RemoveCells, SaveCells
from predictor.engine.slot_cache import SlotCache

SLOT_CELLS = 20


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


class Driver:
    """Runs sequences through a cache and a simulation, which does what the cache wrote down."""

    def __init__(self, slots: int = 3) -> None:
        self.cache = SlotCache(slots, SLOT_CELLS, save=True)
        self.cells: list[list[Token]] = [[] for _ in range(slots)]
        self.saved: list[SaveCells] = []
        self.running: dict[int, list[Token]] = {}
        self.adapters: dict[int, str | None] = {}

    def decode(self) -> None:
        """Carry the operations out; then every running sequence has the cells that it was promised."""
        for operation in self.cache.take_operations():
            match operation:
                case DuplicateCells(source, target, length):
                    assert self.cells[target] == []
                    self.cells[target] = self.cells[source][:length]
                    assert len(self.cells[target]) == length
                case RemoveCells(sequence_id, start, None):
                    del self.cells[sequence_id][start:]
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
            assert len(self.running) == len(self.cells)
            return None
        assert match.length < len(tokens)
        self.note_start(sequence_id, tokens[: match.length], adapter)
        return sequence_id, match.length

    def restore(self, operation: SaveCells, length: int, readable: bool = True) -> None:
        saved, adapter = operation.tokens, operation.adapter
        sequence_id = self.cache.start_empty(len(saved), adapter)
        if sequence_id is None:
            return
        self.decode()
        assert self.cells[sequence_id] == []
        if readable:
            self.cells[sequence_id] = cells(saved[:length], adapter)
            self.cache.restored(sequence_id, saved, length)
            self.note_start(sequence_id, saved[:length], adapter)
        else:
            self.cache.finish(sequence_id, retain=False)

    def note_start(self, sequence_id: int, tokens: list[int], adapter: str | None) -> None:
        assert sequence_id == min(set(range(len(self.cells))) - self.running.keys())
        self.running[sequence_id] = cells(tokens, adapter)
        self.adapters[sequence_id] = adapter

    def extend(self, sequence_id: int, tokens: list[int]) -> None:
        self.decode()
        tokens = tokens[: SLOT_CELLS - len(self.running[sequence_id])]
        computed = cells(tokens, self.adapters[sequence_id])
        self.cells[sequence_id] = self.cells[sequence_id] + computed
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
    driver = Driver()
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


@settings(max_examples=400, deadline=None)
@given(scripts, st.integers(1, 5))
def test_cells_and_tokens_always_agree_with_llama_cpp(script: list[tuple[object, ...]], slots: int) -> None:
    driver = Driver(slots)
    for action, *arguments in script:
        if action == "start":
            driver.start(*arguments)
        elif action == "restore":
            if driver.saved:
                saved = driver.saved[arguments[0] % len(driver.saved)]
                driver.restore(saved, min(arguments[1], len(saved.tokens)), arguments[2])
        elif driver.running:
            sequence_id = list(driver.running)[arguments[0] % len(driver.running)]
            if action == "extend":
                driver.extend(sequence_id, arguments[1])
            else:
                # The engine ends sequences only between the decodes.
                driver.decode()
                driver.finish(sequence_id, arguments[1])
        assert driver.cache.pinned == sum(map(len, driver.running.values()))
        assert driver.cache.pinned <= driver.cache.used <= driver.cache.capacity
    driver.decode()
    assert driver.cache.used == sum(map(len, driver.cells))
