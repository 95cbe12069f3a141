"""Speculative decoding: guess the next tokens cheaply, check them all in one decode, keep those that hold.

A guess is kept only where the sequence's own sampler chooses the same token from the model's own logits,
so the text is what it would have been without. Guessed tokens cost time even when they are wrong, so how many
are tried follows what they cost on this machine and how often they have held (Leviathan et al., 2023,
section 3.3, with measured step times instead of a cost ratio).
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from typing import Protocol

from predictor.engine.sequence import Sequence
from predictor.engine.step_cost import StepCost

# Weight of the newest guesses in what guessing costs, and of the newest guess in the hit rates.
SMOOTHING = 0.05
HIT_SMOOTHING = 0.2
HIT_SMOOTHING_OF_ALL = 0.02
# Before anything was guessed.
HOPEFUL = 0.8
# After so many steps without a guess one is tried again, since texts change.
PROBE_STEPS = 256


class Drafter(Protocol):
    """Guesses tokens."""

    def propose(self, wanted: Mapping[Sequence, int]) -> dict[Sequence, list[int]]:
        """The likely next tokens of each sequence, at most as many as wanted; none where it has no idea."""

    def close(self) -> None:
        """Free what it holds."""


class Speculator:
    """Decides how many tokens are guessed for whom.

    Args:
        drafter: guesses them.
        cost: of steps, learnt elsewhere.
        max_draft_tokens: most per sequence and step.
        max_sequence_tokens: longest a sequence may get.

    Attributes:
        drafted_tokens, accepted_tokens: guessed and kept since the start.
    """

    def __init__(
        self, drafter: Drafter, cost: StepCost, max_draft_tokens: int, max_sequence_tokens: int
    ) -> None:
        self.drafted_tokens = self.accepted_tokens = 0
        self._drafter = drafter
        self._max_draft_tokens = max_draft_tokens
        self._max_sequence_tokens = max_sequence_tokens
        self._cost = cost
        self._pause = 0
        self._draft_seconds = 0.0
        self._hit_rate = HOPEFUL

    def propose(self, sequences: Collection[Sequence], room: int) -> dict[Sequence, list[int]]:
        """Guesses for sequences that decode one token each in the next step.

        Args:
            sequences: all of that step.
            room: most tokens to guess in all.
        """
        worth = self._cost.decoding(len(sequences)) / len(sequences)
        wanted: dict[Sequence, int] = {}
        for sequence in sequences:
            count = min(self._count(sequence, worth), self._most(sequence), room)
            if count > 0:
                wanted[sequence] = count
                room -= count
        self._pause = 0 if wanted else self._pause + 1
        if self._pause >= PROBE_STEPS:
            self._pause = 0
            wanted = dict.fromkeys([s for s in sequences if self._most(s) > 0][: min(room, 1)], 1)
        if not wanted:
            return {}
        started = time.perf_counter()
        drafts = self._drafter.propose(wanted)
        took = time.perf_counter() - started
        if count := sum(map(len, drafts.values())):
            self._draft_seconds += SMOOTHING * (took / count - self._draft_seconds)
        return drafts

    def judge(self, sequence: Sequence, drafted: int, accepted: int) -> None:
        """Take the fate of a sequence's guesses into account, up to the first wrong one."""
        self.drafted_tokens += drafted
        self.accepted_tokens += accepted
        for hit in [1] * accepted + [0] * (accepted < drafted):
            before = self._hit_rate_of(sequence)
            sequence.draft_hit_rate = before + HIT_SMOOTHING * (hit - before)
            self._hit_rate += HIT_SMOOTHING_OF_ALL * (hit - self._hit_rate)

    def close(self) -> None:
        """Free the drafter."""
        self._drafter.close()

    def _count(self, sequence: Sequence, worth: float) -> int:
        """Guesses that are likely enough to be worth their time.

        The guess number i holds with a probability of the hit rate to the power of i. It saves what a token
        of this step costs, `worth` seconds, and takes what guessing does and one more token in a step.
        """
        hit_rate = self._hit_rate_of(sequence)
        price = self._cost.per_decode_token + self._draft_seconds
        count, chance = 0, hit_rate
        while count < self._max_draft_tokens and chance * worth >= price:
            count, chance = count + 1, chance * hit_rate
        return count

    def _hit_rate_of(self, sequence: Sequence) -> float:
        """A sequence's own, as soon as it has one; until then what all others' was."""
        return self._hit_rate if sequence.draft_hit_rate is None else sequence.draft_hit_rate

    def _most(self, sequence: Sequence) -> int:
        left = sequence.max_tokens - sequence.num_generated - 1
        return min(left, self._max_sequence_tokens - len(sequence.tokens) - 1)
