"""Guesses of a small model with the same vocabulary."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from predictor.engine.cell_keeper import CellKeeper
from predictor.engine.host_cache import HostCache
from predictor.engine.kv_cache import KVCache
from predictor.engine.llama import (
    AbortFlag,
    Batch,
    Context,
    ContextParams,
    DecodeAbortedError,
    Model,
)
from predictor.engine.pacing import MOST_GROWTH
from predictor.engine.past import Past
from predictor.engine.radix_tree import common_prefix
from predictor.engine.sequence import Sequence
from predictor.engine.step_cost import StepCost
from predictor.errors import ModelLoadError

# So few missing tokens are computed together with the first guess; more are read beforehand.
NEAR_TOKENS = 8
# Read at a time before it is known what one costs, and however little time there is.
FIRST_TOKENS, LEAST_TOKENS = 32, 16


def load_draft_model(path: Path, target: Model, *, gpu_layers: int) -> Model:
    """Load a draft model.

    Raises:
        ModelLoadError: it can't be loaded, can't generate, or its tokens aren't the target's.
    """
    model = Model(path, gpu_layers=gpu_layers)
    reason = None
    if not (model.can_generate and model.past is Past.ALL):
        reason = "it can't generate text token by token and take tokens back"
    elif model.n_vocab != target.n_vocab:
        reason = f"it has {model.n_vocab} tokens, and the model {target.n_vocab}"
    elif any(model.piece(token) != target.piece(token) for token in range(model.n_vocab)):
        reason = "its tokens stand for other text"
    if reason:
        model.close()
        raise ModelLoadError(f"{path} can't draft for {target.path}: {reason}")
    return model


@dataclass(slots=True)
class _Follower:
    """What the small model has computed of a sequence.

    Attributes:
        id: llama.cpp's, in the small model's context.
        computed: how many of the sequence's tokens have cells, and are in the cache's books.
        guessed: tokens with cells behind them, of which the next step tells which were right.
    """

    id: int
    computed: int
    guessed: list[int] = field(default_factory=list)


class DraftModel:
    """Runs the small model a few tokens ahead of each sequence, greedily.

    Its cells are kept like the target's: sequences with the same beginning share them or take them over.

    Args:
        model: see `load_draft_model`; closed with the drafter.
        params: `sequences` ids, of which each may get as long as the target's.
        make_cache: makes the bookkeeping of its cells.
        abort: stops what is computed.
    """

    def __init__(
        self, model: Model, params: ContextParams, make_cache: Callable[[], KVCache], abort: AbortFlag
    ) -> None:
        self._model = model
        self._context = Context(model, params, abort)
        self._batch = Batch(params.batch_tokens)
        self._near = min(NEAR_TOKENS, self._batch.capacity - 1)
        self._make_cache = make_cache
        self._cost = StepCost()
        self.forget()

    def forget(self) -> None:
        """See `Drafter`."""
        self._context.clear()
        self._cache = self._make_cache()
        self._cells = CellKeeper(self._context, self._cache, HostCache(0))
        self._followers: dict[Sequence, _Follower] = {}

    def reading_seconds(self, sequence: Sequence) -> float:
        """See `Drafter`; 0 before anything was measured."""
        follower = self._followers.get(sequence)
        known = follower.computed if follower else self._cache.lookup(sequence.tokens).length
        missing = len(sequence.tokens) - 1 - known
        return 0.0 if missing <= self._near else missing * self._cost.per_prompt_token

    def prepare(self, sequences: Collection[Sequence], running: Collection[Sequence], seconds: float) -> None:
        """See `Drafter`; one sequence after the other, so that they can share what is read."""
        self._settle(running)
        with suppress(DecodeAbortedError):
            self._read([sequence for sequence in sequences if not self._is_near(sequence)], seconds)

    def propose(self, wanted: Mapping[Sequence, int]) -> dict[Sequence, list[int]]:
        """See `Drafter`; all sequences that were read advance together."""
        with suppress(DecodeAbortedError):
            return self._guess({s: count for s, count in wanted.items() if self._is_near(s)})
        return {}

    def close(self) -> None:
        """Free the model and its cells."""
        self._context.close()
        self._model.close()

    def _settle(self, running: Collection[Sequence]) -> None:
        """Keep the guesses that were right and take the others back; let go of sequences that ended."""
        for sequence, follower in list(self._followers.items()):
            if follower.guessed:
                right = common_prefix(follower.guessed, sequence.tokens[follower.computed : -1])
                self._context.remove(follower.id, follower.computed + right)
                self._record(sequence, follower, right)
                follower.guessed.clear()
            if sequence not in running:
                self._cache.finish(follower.id)
                del self._followers[sequence]

    def _record(self, sequence: Sequence, follower: _Follower, count: int) -> None:
        """The next so many tokens of a sequence have cells."""
        if count:
            end = follower.computed + count
            self._cache.extend(follower.id, sequence.tokens[follower.computed : end])
            follower.computed = end

    def _is_near(self, sequence: Sequence) -> bool:
        follower = self._followers.get(sequence)
        return follower is not None and len(sequence.tokens) - 1 - follower.computed <= self._near

    def _read(self, sequences: list[Sequence], seconds: float) -> None:
        """Compute what is missing of sequences, one after the other, for about so long."""
        budget = FIRST_TOKENS
        if self._cost.largest:
            most = MOST_GROWTH * self._cost.largest
            budget = max(LEAST_TOKENS, self._cost.most_prompt_tokens(0, seconds, most))
        for sequence in sequences:
            if budget <= 0:  # the next may share what this one reads
                break
            follower = self._followers.get(sequence) or self._start(sequence)
            while follower is not None and budget > 0:
                missing = len(sequence.tokens) - 1 - follower.computed
                count = min(missing, budget, self._batch.capacity)
                if count <= 0 or not self._cache.make_room(count):
                    break
                self._compute(sequence, follower, count)
                budget -= count

    def _start(self, sequence: Sequence) -> _Follower | None:
        """Follow a sequence from the longest beginning on that has cells; None where it can't be had."""
        match = self._cache.lookup(sequence.tokens)
        sequence_id = self._cache.start(sequence.tokens, match)
        if sequence_id is None:
            return None
        if sequence_id in self._cells.take_lost():
            self._cache.finish(sequence_id, retain=False)
            return None
        follower = self._followers[sequence] = _Follower(sequence_id, match.length)
        return follower

    def _compute(self, sequence: Sequence, follower: _Follower, count: int) -> None:
        self._cells.carry_out()
        started = time.perf_counter()
        self._batch.clear()
        end = follower.computed + count
        self._batch.add(
            sequence.tokens[follower.computed : end], follower.computed, follower.id, logits=False
        )
        self._context.decode(self._batch)
        self._record(sequence, follower, count)
        self._cost.observe(decode_tokens=0, prompt_tokens=count, seconds=time.perf_counter() - started)

    def _guess(self, wanted: Mapping[Sequence, int]) -> dict[Sequence, list[int]]:
        """Guesses for sequences of which hardly anything is missing."""
        missing = {s: len(s.tokens) - self._followers[s].computed for s in wanted}
        if not self._cache.make_room(sum(missing.values()) + sum(wanted.values())):
            return {}
        self._cells.carry_out()
        drafts: dict[Sequence, list[int]] = {}
        for number in range(max(wanted.values(), default=0)):
            self._batch.clear()
            places = {}
            for sequence, count in wanted.items():
                follower = self._followers[sequence]
                if number == 0 and self._batch.size + missing[sequence] <= self._batch.capacity:
                    start, tokens = follower.computed, sequence.tokens[follower.computed :]
                elif sequence in drafts and number < count:
                    start, tokens = follower.computed + number - 1, drafts[sequence][-1:]
                else:
                    continue
                places[sequence] = self._batch.add(tokens, start, follower.id, logits=True)
            if not places:
                break
            self._context.decode(self._batch)
            for sequence, place in places.items():
                follower = self._followers[sequence]
                if number == 0:
                    self._record(sequence, follower, missing[sequence])
                    drafts[sequence] = []
                else:
                    follower.guessed.append(drafts[sequence][-1])
                drafts[sequence].append(int(self._context.logits(place).argmax()))
        return drafts
