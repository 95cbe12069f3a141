"""Decides which tokens go into the next batch. Pure Python: it sees tokens and cells, never a model.

Once per step the engine calls `schedule`, carries out the prefix cache's operations, decodes the chunks,
calls `commit`, appends the sampled tokens to the sequences and calls `finish` for those that are done.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from collections.abc import Sequence as Collection
from dataclasses import dataclass
from typing import Protocol

from predictor.engine.adapter_turns import AdapterTurns
from predictor.engine.host_cache import Found, HostCache, Prefix
from predictor.engine.kv_cache import KVCache, Match
from predictor.engine.past import Past
from predictor.engine.prefix_cache import WORTH_SAVING_TOKENS
from predictor.engine.radix_tree import common_prefix
from predictor.engine.resume_points import ResumePoints
from predictor.engine.sequence import Sequence

# A shared beginning shorter than this is computed again rather than waited for: it takes about one step.
# Where many wait, it is what they would compute together that counts.
WORTH_WAITING_TOKENS = 32
WORTH_WAITING_TOGETHER_TOKENS = 128


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens `start` to `end` of a sequence, to be computed in the next step."""

    sequence: Sequence
    start: int
    end: int

    @property
    def completes(self) -> bool:
        """Whether the sequence has all its cells afterwards, so that a token can be sampled."""
        return self.end == len(self.sequence.tokens)


class PrefillBudget(Protocol):
    """Most prompt tokens for a step, None for no limit of its own."""

    def __call__(self, *, decode_tokens: int, streams_wait: bool) -> int | None: ...


class Scheduler:
    """Continuous batching under a token budget per step and a cell budget for the KV cache.

    Requests are admitted in order of arrival, as long as what the running ones are expected to reach still
    fits. One whose beginning is just being computed by another waits for it, and lets others pass. When the
    cache is full nevertheless, the sequence admitted last gives its place up and is computed again later.

    Args:
        cache: ids and cells.
        host: prefixes that lost their cells.
        restore_cells: carries out the cache's operations, then gives a sequence id the first so many cells of
            a saved prefix at once, and what can't be cut of another; False where that can't be read.
        max_sequences: most sequences in one batch.
        max_batch_tokens: most tokens in one batch; at least max_sequences.
        turns: whose sequences may be in one batch; None for all.
        whole_prompts: compute each prompt in one step; none may be longer than max_batch_tokens.
        points: plans where the state of sequences is kept; None where they can be cut anywhere.
        max_outputs: most tokens of a step whose logits can be had, at least max_sequences; None for all.
    """

    def __init__(
        self,
        cache: KVCache,
        host: HostCache,
        restore_cells: Callable[[int, Prefix, int, Prefix | None], bool],
        *,
        max_sequences: int,
        max_batch_tokens: int,
        turns: AdapterTurns | None = None,
        whole_prompts: bool = False,
        points: ResumePoints | None = None,
        max_outputs: int | None = None,
    ) -> None:
        if max_batch_tokens < max_sequences:
            raise ValueError("max_batch_tokens must be at least max_sequences")
        self.cache = cache
        self.host = host
        self._restore_cells = restore_cells
        self.max_sequences = max_sequences
        self.max_batch_tokens = max_batch_tokens
        self._turns = turns
        self._points = points
        self._max_outputs = max_batch_tokens if max_outputs is None else max_outputs
        self._share = _share_whole if whole_prompts else _share
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.num_preemptions = 0

    @property
    def has_work(self) -> bool:
        """Whether `schedule` would give at least one chunk."""
        return bool(self.running or self.waiting)

    def add(self, sequence: Sequence) -> None:
        """Queue a new sequence; its prompt must be shorter than the cache."""
        self.waiting.append(sequence)

    def finish(self, sequence: Sequence, *, retain: bool = True) -> None:
        """Take a sequence out, waiting or running; unknown ones are ignored.

        Args:
            sequence: any sequence.
            retain: keep its cells for later requests with the same beginning.
        """
        if sequence in self.running:
            self.running.remove(sequence)
            self._release(sequence, retain=retain)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)

    def preempt(self) -> Sequence:
        """Put the sequence admitted last back to the front of the queue, to be computed again."""
        victim = self.running[-1]
        self.running.remove(victim)
        self._release(victim, retain=True)
        self.waiting.appendleft(victim)
        victim.preemptions += 1
        self.num_preemptions += 1
        return victim

    def recompute(self, sequence: Sequence) -> None:
        """A running sequence's cells are lost: it gets others, and is computed from its beginning."""
        self.cache.finish(sequence.sequence_id, retain=False)
        sequence_id = self.cache.start_empty(0, sequence.adapter)
        assert sequence_id is not None, "one was just given back"
        sequence.sequence_id, sequence.num_computed = sequence_id, 0

    def schedule(self, prefill_budget: PrefillBudget) -> list[Chunk]:
        """Choose the next batch; never more than `max_batch_tokens` tokens, and all of one adapter.

        It can be empty where the sequences whose turn it was gave their place up to others.

        Args:
            prefill_budget: most prompt tokens to compute in it, told of the streams that wait for it.
        """
        self._admit()
        batch = self.running if self._turns is None else self._turns.take(self.running)
        decoding = [s for s in batch if s.is_decoding]
        budget = self.max_batch_tokens - len(decoding)
        streams_wait = any(s.is_decoding for s in self.running)
        limit = prefill_budget(decode_tokens=len(decoding), streams_wait=streams_wait)
        if limit is not None:
            budget = min(budget, limit)
        chunks = [Chunk(s, s.num_computed, len(s.tokens)) for s in decoding]
        chunks += self._share(budget, [s for s in batch if not s.is_decoding])
        return self._fit(self._with_logits(chunks))

    def commit(self, chunks: Collection[Chunk]) -> None:
        """Record that a batch was computed."""
        for chunk in chunks:
            sequence = chunk.sequence
            self.cache.extend(sequence.sequence_id, sequence.tokens[chunk.start : chunk.end])
            sequence.num_computed = chunk.end

    def confirm(self, sequence: Sequence) -> None:
        """Record that the newest token has its cell already, having been guessed before it was sampled."""
        self.cache.extend(sequence.sequence_id, sequence.tokens[-1:])
        sequence.num_computed += 1

    def _admit(self) -> None:
        """Move waiting sequences to the running ones while ids and cells last."""
        passed: list[Sequence] = []
        queue = len(self.waiting)
        while self.waiting and len(self.running) < self.max_sequences:
            sequence = self.waiting.popleft()
            match = self.cache.lookup(sequence.reusable, sequence.adapter)
            if self._waits_for_prefix(sequence, match, queue):
                passed.append(sequence)
                continue
            if not self._has_room(sequence, match) or not self._start(sequence, match):
                passed.append(sequence)
                break
        self.waiting.extendleft(reversed(passed))

    def _waits_for_prefix(self, candidate: Sequence, match: Match, queue: int) -> bool:
        """Whether another sequence is computing a beginning that this one, of so many, could take over."""
        if not self.cache.reuses or self._host_is_missing:
            return False
        tokens = candidate.reusable
        ahead = 0
        for other in self.running:
            if other.num_missing > 1 and other.adapter == candidate.adapter:
                shared = common_prefix(tokens, other.tokens)
                if shared > other.num_computed:
                    reached = min(shared, len(tokens) - 1)
                    if self._points is not None:
                        reached = self._points.share(other, reached)
                    ahead = max(ahead, reached)
        missing = ahead - match.length
        return missing >= WORTH_WAITING_TOKENS or missing * queue >= WORTH_WAITING_TOGETHER_TOKENS

    def _has_room(self, candidate: Sequence, match: Match) -> bool:
        if not self.running:
            return True
        growth = sum(s.expected_size - s.num_computed for s in self.running)
        own = candidate.expected_size - match.length + self.cache.newly_pinned(match)
        return self.cache.pinned + growth + own <= self.cache.capacity

    @property
    def _host_is_missing(self) -> bool:
        """Whether nothing can be kept for others of sequences that can't be cut anywhere."""
        return self.host.past is not Past.ALL and self._points is None

    def _start(self, sequence: Sequence, match: Match) -> bool:
        tokens = sequence.tokens
        sequence_id = None
        found = self.host.match(sequence.reusable[:-1], sequence.adapter)
        shared = max(match.shared, found.shared)
        length = found.length
        if found.prefix is not None and length - match.length >= WORTH_SAVING_TOKENS:
            sequence_id = self._restore(tokens, found)
            if sequence_id is None:  # the attempt may have evicted what was found before
                match = self.cache.lookup(sequence.reusable, sequence.adapter)
        if sequence_id is None:
            sequence_id, length = self.cache.start(tokens, match), match.length
        if sequence_id is None:
            return False
        sequence.sequence_id, sequence.num_computed = sequence_id, length
        if self._points is not None:
            self._points.plan(sequence, shared)
        if not sequence.admitted:
            sequence.admitted = time.monotonic()
            sequence.cached_tokens = length
        sequence.admitted_size = len(tokens)
        self.running.append(sequence)
        return True

    def _restore(self, tokens: list[int], found: Found) -> int | None:
        """Give a sequence what was found of its tokens in ordinary memory; None where it can't be done."""
        saved = found.prefix
        assert saved is not None
        sequence_id = self.cache.start_empty(len(saved.tokens), saved.adapter)
        if sequence_id is None:
            return None
        if not self._restore_cells(sequence_id, saved, found.length, found.point):
            self.host.discard(saved)
            self.cache.finish(sequence_id, retain=False)
            return None
        self.cache.restored(sequence_id, tokens, found.length)
        self.host.touch(saved)
        return sequence_id

    def _with_logits(self, chunks: list[Chunk]) -> list[Chunk]:
        """The chunks, those of prompts that are scored cut to the logits that can be had."""
        room = self._max_outputs - len(chunks)
        cut = []
        for chunk in chunks:
            if chunk.sequence.is_scoring:
                size = min(chunk.end - chunk.start, room + 1)
                room -= size - 1
                chunk = Chunk(chunk.sequence, chunk.start, chunk.start + size)
            cut.append(chunk)
        return cut

    def _fit(self, chunks: list[Chunk]) -> list[Chunk]:
        """Make room for the chunks, preempting the sequence admitted last as often as needed."""
        while not self.cache.make_room(sum(c.end - c.start for c in chunks)):
            if len(self.running) == 1:
                # Alone it always fits: the engine refuses prompts that don't, and limits the output.
                raise RuntimeError("the KV cache is too small for one sequence")
            victim = self.preempt()
            chunks = [c for c in chunks if c.sequence is not victim]
        return chunks

    def _release(self, sequence: Sequence, *, retain: bool) -> None:
        self.cache.finish(sequence.sequence_id, retain=retain)
        sequence.sequence_id = -1
        sequence.num_computed = 0


def _share(budget: int, sequences: list[Sequence]) -> list[Chunk]:
    """Divide a budget among prefilling sequences.

    The longest-running one gets at least half, so that it always gets on; the rest goes to the shortest
    first, so that a short prompt doesn't wait behind a long one. A sequence ages by the tokens of those that
    pass it, so that later ones together delay it by about its own length and no more.
    """
    if not sequences:
        return []
    parts = dict.fromkeys(sequences, 0)
    parts[sequences[0]] = min(sequences[0].num_reachable, (budget + 1) // 2)
    left = budget - parts[sequences[0]]
    for sequence in sorted(sequences, key=lambda s: s.num_missing - s.passed_by):
        more = min(sequence.num_reachable - parts[sequence], left)
        parts[sequence] += more
        left -= more
    _age(parts)
    return [Chunk(s, s.num_computed, s.num_computed + part) for s, part in parts.items() if part > 0]


def _age(parts: dict[Sequence, int]) -> None:
    """Count what later sequences get against those that still wait; `parts` is in order of admission."""
    given_later = 0
    for sequence, part in reversed(parts.items()):
        if part < sequence.num_missing:
            sequence.passed_by += given_later
        given_later += part


def _share_whole(budget: int, sequences: list[Sequence]) -> list[Chunk]:
    """Whole prompts only: the longest-running sequence's always, others as far as they fit beside it."""
    chunks: list[Chunk] = []
    for sequence in sequences:
        if not chunks or sequence.num_missing <= budget:
            chunks.append(Chunk(sequence, sequence.num_computed, len(sequence.tokens)))
            budget -= sequence.num_missing
    return chunks
