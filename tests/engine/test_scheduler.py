"""The scheduler without a model: a fake decode that only counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predictor.engine import prefix_cache as prefix_cache_module
from predictor.engine import scheduler as scheduler_module
from predictor.engine.adapter_turns import AdapterTurns
from predictor.engine.cell_operations import SaveCells
from predictor.engine.host_cache import HostCache, SavedPrefix
from predictor.engine.prefix_cache import PrefixCache
from predictor.engine.radix_tree import Node
from predictor.engine.request import Request, SamplingParams
from predictor.engine.scheduler import Chunk, Scheduler
from predictor.engine.sequence import Sequence
from predictor.engine.slot_cache import SlotCache

FILLER = 7


def sequence(prompt: list[int], max_tokens: int = 4, adapter: str | None = None) -> Sequence:
    return Sequence(Request("r", tuple(prompt), SamplingParams(), adapter=adapter), max_tokens)


def scheduler(
    capacity: int = 1000,
    sequences: int = 4,
    batch: int = 64,
    ids: int = 8,
    *,
    restorable: bool = True,
    turns: AdapterTurns | None = None,
) -> Scheduler:
    cache = PrefixCache(capacity, ids, max_retained=capacity // 2, save=True)
    host = HostCache(10_000)
    return Scheduler(
        cache, host, lambda *_: restorable, max_sequences=sequences, max_batch_tokens=batch, turns=turns
    )


def slot_scheduler(cells: int, sequences: int, batch: int, *, restorable: bool) -> Scheduler:
    cache, host = SlotCache(sequences, cells, save=True), HostCache(10_000)
    return Scheduler(
        cache,
        host,
        lambda *_: restorable,
        max_sequences=sequences,
        max_batch_tokens=batch,
        turns=AdapterTurns(),
    )


def step(subject: Scheduler, budget: int | None = None) -> list[Chunk]:
    """What the engine does in a step, with FILLER for every sampled token."""
    chunks = subject.schedule(lambda *, decode_tokens, streams_wait: budget if streams_wait else None)
    for operation in subject.cache.take_operations():
        if isinstance(operation, SaveCells):
            state = np.zeros(10 * len(operation.tokens), np.uint8)
            subject.host.add(SavedPrefix(operation.tokens, state, operation.adapter))
    subject.commit(chunks)
    for chunk in chunks:
        if chunk.completes:
            chunk.sequence.tokens.append(FILLER)
            if chunk.sequence.num_generated >= chunk.sequence.max_tokens:
                subject.finish(chunk.sequence)
    return chunks


def sizes(chunks: list[Chunk]) -> list[int]:
    return [chunk.end - chunk.start for chunk in chunks]


def test_a_prompt_longer_than_the_batch_is_computed_in_chunks() -> None:
    subject = scheduler(batch=10)
    subject.add(sequence(list(range(25)), max_tokens=1))
    assert [sizes(step(subject)) for _ in range(3)] == [[10], [10], [5]]
    assert not subject.has_work


def test_a_running_stream_gets_its_token_beside_a_long_prompt() -> None:
    subject = scheduler(batch=16)
    stream = sequence([1, 2, 3], max_tokens=20)
    subject.add(stream)
    step(subject)
    subject.add(sequence(list(range(100, 200))))
    for _ in range(5):
        chunks = step(subject)
        assert chunks[0].sequence is stream
        assert sum(sizes(chunks)) <= 16


def test_the_prefill_budget_holds_only_beside_decoding() -> None:
    subject = scheduler(batch=64)
    subject.add(sequence([1, 2, 3], max_tokens=20))
    assert sizes(step(subject, 2)) == [3]
    subject.add(sequence(list(range(100, 150))))
    assert sizes(step(subject, 5)) == [1, 5]


def test_a_short_prompt_passes_a_long_one() -> None:
    subject = scheduler(batch=20)
    subject.add(sequence(list(range(100, 400))))
    step(subject)
    short = sequence([1, 2, 3, 4, 5], max_tokens=1)
    subject.add(short)
    step(subject)
    assert short.num_generated == 1


def test_the_longest_running_prefill_always_gets_half() -> None:
    subject = scheduler(batch=20)
    long = sequence(list(range(100, 400)))
    subject.add(long)
    step(subject)
    for start in (1000, 2000, 3000):
        subject.add(sequence(list(range(start, start + 30))))
    chunks = step(subject)
    assert next(c.end - c.start for c in chunks if c.sequence is long) == 10
    assert sum(sizes(chunks)) == 20


def test_a_prompt_that_others_pass_ages_until_it_gets_its_turn() -> None:
    subject = scheduler(capacity=10_000, batch=20)
    subject.add(sequence(list(range(1000, 1900))))
    step(subject)
    second = sequence(list(range(2000, 2060)))
    subject.add(second)
    passed_it = 0
    while second.num_computed == 0:
        subject.add(sequence(list(range(passed_it, passed_it + 10)), max_tokens=1))
        chunks = step(subject)
        passed_it += sum(c.end - c.start for c in chunks if c.sequence.admitted > second.admitted)
        assert passed_it <= 70, "later prompts delay one by about its own length"
    assert passed_it >= 40, "short prompts pass a longer one at first"


def test_admission_goes_by_cells_not_by_slots() -> None:
    subject = scheduler(capacity=100)
    for start in (0, 100, 200):
        subject.add(sequence(list(range(start, start + 30)), max_tokens=20))
    step(subject)
    assert (len(subject.running), len(subject.waiting)) == (2, 1)


def test_requests_are_admitted_in_order_of_arrival() -> None:
    """A small request doesn't pass a large one that waits for cells, however often cells get free."""
    subject = scheduler(capacity=100)
    first, large, small = (
        sequence(list(range(start, start + length)), max_tokens=20)
        for start, length in ((0, 50), (100, 60), (200, 5))
    )
    for one in (first, large, small):
        subject.add(one)
    while large.num_generated == 0:
        step(subject)
        assert small.num_generated == 0 or large.num_computed > 0


def test_a_shared_beginning_is_computed_once() -> None:
    subject = scheduler(batch=64)
    prompt = list(range(100, 200))
    sequences = [sequence([*prompt, 500 + i]) for i in range(3)]
    for one in sequences:
        subject.add(one)
    computed = sum(sum(sizes(step(subject))) for _ in range(3))
    assert computed < len(prompt) + 3 * 4
    assert [one.cached_tokens for one in sequences] == [0, 100, 100]


def test_many_wait_for_a_short_beginning_that_one_would_compute_itself() -> None:
    for others, waits in ((1, False), (9, True)):
        subject = scheduler(sequences=10, batch=80, ids=16)
        prompt = list(range(100, 200))
        subject.add(sequence([*prompt, 1]))
        step(subject)
        late = [sequence([*prompt, number]) for number in range(2, 2 + others)]
        for one in late:
            subject.add(one)
        step(subject)
        assert [one.admitted == 0 for one in late] == [waits] * others
        step(subject)
        assert late[0].cached_tokens == (100 if waits else 80)


def test_others_pass_a_request_that_waits_for_a_prefix() -> None:
    subject = scheduler(batch=64)
    prompt = list(range(100, 200))
    other = sequence([1, 2, 3])
    for one in (sequence(prompt), sequence([*prompt, 1]), other):
        subject.add(one)
    assert other in [chunk.sequence for chunk in step(subject)]


def test_a_full_cache_preempts_the_last_admitted_and_both_finish() -> None:
    subject = scheduler(capacity=600)
    first, second = sequence(list(range(10)), 400), sequence(list(range(100, 110)), 400)
    subject.add(first)
    subject.add(second)
    for _ in range(2000):
        if not subject.has_work:
            break
        step(subject)
    assert subject.num_preemptions > 0
    assert first.preemptions == 0
    assert (first.num_generated, second.num_generated) == (400, 400)


def test_a_saved_prefix_that_cannot_be_read_is_computed_once_for_all_who_share_it() -> None:
    subject = scheduler(batch=128, restorable=False)
    prompt = list(range(100, 200))
    subject.host.add(SavedPrefix(prompt, np.zeros(10, np.uint8)))
    sequences = [sequence([*prompt, 500 + i]) for i in range(3)]
    for one in sequences:
        subject.add(one)
    assert sizes(step(subject)) == [101]
    assert list(subject.host) == []
    step(subject)
    assert [one.cached_tokens for one in sequences] == [0, 100, 100]


def test_a_saved_prefix_is_restored_once_for_all_who_share_it() -> None:
    subject = scheduler(batch=128)
    prompt = list(range(100, 200))
    subject.host.add(SavedPrefix(prompt, np.zeros(10, np.uint8)))
    sequences = [sequence([*prompt, 500 + i]) for i in range(3)]
    for one in sequences:
        subject.add(one)
    assert sizes(step(subject)) == [1, 1, 1]
    assert [one.cached_tokens for one in sequences] == [100, 100, 100]
    assert subject.cache.used == 103


def test_an_admission_looks_its_prefix_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = scheduler(batch=128)
    subject.add(sequence(list(range(100, 140))))
    step(subject)
    looked_up = []
    walk = Node.walk
    monkeypatch.setattr(Node, "walk", lambda *arguments: looked_up.append(1) or walk(*arguments))
    subject.add(sequence([*range(100, 140), 1, 2]))
    step(subject)
    assert len(subject.running) == 2
    assert len(looked_up) == 1


def test_sequences_of_two_adapters_take_turns() -> None:
    subject = scheduler(turns=AdapterTurns())
    ones = [sequence([1, 2, 3], 3, adapter) for adapter in (None, "a", None, "b")]
    for one in ones:
        subject.add(one)
    batches = [[chunk.sequence for chunk in step(subject)] for _ in range(6)]
    assert batches == [[ones[0], ones[2]], [ones[1]], [ones[3]]] * 2


def test_adapters_share_no_beginning_and_do_not_wait_for_one_another() -> None:
    subject = scheduler(batch=128, turns=AdapterTurns())
    prompt = list(range(100, 200))
    subject.host.add(SavedPrefix(prompt, np.zeros(10, np.uint8), "b"))
    ones = [sequence(prompt, adapter=adapter) for adapter in (None, "a", "b")]
    for one in ones:
        subject.add(one)
    assert [sizes(step(subject)) for _ in range(3)] == [[100], [100], [1]]
    assert [one.cached_tokens for one in ones] == [0, 0, 99]


def test_streams_of_one_adapter_bound_the_prefill_of_another() -> None:
    subject = scheduler(turns=AdapterTurns())
    subject.add(sequence([1, 2, 3], 20, "a"))
    step(subject)
    subject.add(sequence(list(range(100, 150)), adapter="b"))
    assert sizes(step(subject, 5)) in ([1], [5])
    assert sizes(step(subject, 5)) in ([1], [5])


def test_finish_takes_a_waiting_sequence_out_of_the_queue() -> None:
    subject = scheduler(sequences=1)
    first, second = sequence([1, 2]), sequence([3, 4])
    subject.add(first)
    subject.add(second)
    step(subject)
    subject.finish(second)
    subject.finish(second)
    assert not subject.waiting


@pytest.fixture(scope="module")
def _short_ones_are_worth_saving() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module in (prefix_cache_module, scheduler_module):
            patch.setattr(module, "WORTH_SAVING_TOKENS", 5)
        yield


requests = st.lists(
    st.tuples(
        st.lists(st.integers(0, 2), min_size=1, max_size=60),
        st.integers(1, 60),
        st.integers(0, 20),
        st.integers(0, 200),
        st.sampled_from([None, "a", "b"]),
    ),
    min_size=1,
    max_size=12,
)


@pytest.mark.usefixtures("_short_ones_are_worth_saving")
@settings(max_examples=300, deadline=None)
@given(
    requests,
    st.integers(130, 200),
    st.integers(1, 4),
    st.integers(4, 40),
    st.integers(0, 4),
    st.integers(1, 9),
    st.booleans(),
    st.booleans(),
)
def test_every_sequence_finishes_within_all_budgets(
    script: list[tuple[list[int], int, int, int, str | None]],
    capacity: int,
    max_sequences: int,
    batch: int,
    spare_ids: int,
    prefill_budget: int,
    restorable: bool,
    slots: bool,
) -> None:
    """None lost, none starved, no budget exceeded, whatever arrives when and is cancelled when.

    Every batch is of one adapter, and each that has sequences in the batch gets its turn.
    """
    if slots:
        subject = slot_scheduler(capacity, max_sequences, batch, restorable=restorable)
    else:
        subject = scheduler(
            capacity,
            max_sequences,
            batch,
            max_sequences + spare_ids,
            restorable=restorable,
            turns=AdapterTurns(),
        )
    todo = [(at, cancel_at, sequence(prompt, most, a)) for prompt, most, at, cancel_at, a in script]
    waited: Counter[str | None] = Counter()
    cancelled: set[int] = set()
    for now in range(5000):
        for at, cancel_at, one in todo:
            if at == now:
                subject.add(one)
            if at + cancel_at == now and one.num_generated < one.max_tokens:
                subject.finish(one)
                cancelled.add(id(one))
        chunks = step(subject, prefill_budget)
        assert sum(sizes(chunks)) <= batch
        assert len({id(c.sequence) for c in chunks}) == len(chunks) <= max_sequences
        assert subject.cache.used <= subject.cache.capacity
        computed = {c.sequence.adapter for c in chunks}
        assert len(computed) <= 1
        waited.update({s.adapter for s in subject.running} - computed)
        for adapter in computed:
            waited[adapter] = 0
        assert all(steps <= 3 for steps in waited.values())
        if now > 20 + 200 and not subject.has_work:
            break
    else:
        raise AssertionError("starved")
    for _, _, one in todo:
        assert one.num_generated == one.max_tokens or id(one) in cancelled
    assert subject.cache.pinned == 0
