"""Speculative decoding: guess the next tokens cheaply, check them all in one decode, keep those that hold.

A guess is kept only where the sequence's own sampler chooses the same token from the model's own logits,
so the text is what it would have been without. Guessed tokens cost time even when they are wrong, so how many
are tried follows what they cost on this machine and how often they have held (Leviathan et al., 2023,
section 3.3, with measured step times instead of a cost ratio).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping
from typing import Protocol

from predictor.engine.sequence import EXPECTED_OUTPUT_TOKENS, Sequence
from predictor.engine.step_cost import StepCost

logger = logging.getLogger(__name__)

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

    def prepare(self, sequences: Collection[Sequence], running: Collection[Sequence], seconds: float) -> None:
        """Read what it lacks of sequences, as far as that goes in so many seconds.

        Args:
            sequences: to guess for.
            running: all that go on; what is kept of others may go.
            seconds: about the most it may take; what takes longer goes on next time.
        """

    def propose(self, wanted: Mapping[Sequence, int]) -> dict[Sequence, list[int]]:
        """The likely next tokens of each sequence, at most as many as wanted; none where it has no idea."""

    def reading_seconds(self, sequence: Sequence) -> float:
        """How long it would take to read what it lacks of a sequence before it can guess for it."""

    def forget(self) -> None:
        """Begin anew, after a failure that nothing is known of."""

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
        self._rest = 0
        self._draft_seconds: float | None = None
        self._hit_rate = HOPEFUL

    def propose(
        self, sequences: Collection[Sequence], room: int, *, running: Collection[Sequence], seconds: float
    ) -> dict[Sequence, list[int]]:
        """Guesses for sequences that decode one token each in the next step.

        A drafter that fails costs its guesses of some steps, and nothing else.

        Args:
            sequences: all of that step.
            room: most tokens to guess in all.
            running: these, and those that run but have no part in the step.
            seconds: most that guessing may take, since streams wait for it.
        """
        if self._rest > 0:
            self._rest -= 1
            return {}
        if self._draft_seconds:
            room = min(room, max(1, int(seconds / self._draft_seconds)))
        wanted = self._wanted(sequences, room)
        if not wanted:
            return {}
        try:
            return self._draft(wanted, running, seconds)
        except Exception:
            logger.exception("guessing failed; it is tried again after %d steps", PROBE_STEPS)
            self._rest = PROBE_STEPS
            self._drafter.forget()
            return {}

    def _wanted(self, sequences: Collection[Sequence], room: int) -> dict[Sequence, int]:
        """How many guesses are worth their time, for whom."""
        worth = self._cost.decoding(len(sequences)) / len(sequences)
        wanted: dict[Sequence, int] = {}
        for sequence in sequences:
            count = min(self._count(sequence, worth), self._most(sequence), room)
            if count > 0 and self._drafter.reading_seconds(sequence) <= self._gain(sequence, count, worth):
                wanted[sequence] = count
                room -= count
        self._pause = 0 if wanted else self._pause + 1
        if self._pause >= PROBE_STEPS and room > 0:
            return self._probe(sequences, worth)
        return wanted

    def _probe(self, sequences: Collection[Sequence], worth: float) -> dict[Sequence, int]:
        """One guess where none was worth it for long, for the sequence that takes least to read.

        It may take some steps to read. One that takes more than a tenth of the time between two is left.
        """
        candidates = [sequence for sequence in sequences if self._most(sequence) > 0]
        if candidates:
            easiest = min(candidates, key=self._drafter.reading_seconds)
            if self._drafter.reading_seconds(easiest) <= 0.1 * PROBE_STEPS * worth * len(sequences):
                return {easiest: 1}
        self._pause = 0
        return {}

    def _draft(
        self, wanted: Mapping[Sequence, int], running: Collection[Sequence], seconds: float
    ) -> dict[Sequence, list[int]]:
        seconds -= sum(wanted.values()) * (self._draft_seconds or 0.0)
        self._drafter.prepare(wanted, running, seconds)
        started = time.perf_counter()
        drafts = self._drafter.propose(wanted)
        took = time.perf_counter() - started
        if count := sum(map(len, drafts.values())):
            self._pause = 0
            if self._draft_seconds is None:
                self._draft_seconds = took / count
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
        price = self._price
        count, chance = 0, hit_rate
        while count < self._max_draft_tokens and chance * worth >= price:
            count, chance = count + 1, chance * hit_rate
        return count

    @property
    def _price(self) -> float:
        """Seconds that a guess and its check take."""
        return self._cost.per_decode_token + (self._draft_seconds or 0.0)

    def _gain(self, sequence: Sequence, count: int, worth: float) -> float:
        """Seconds that guessing so many tokens in each step may save on the rest of a sequence."""
        hit_rate = self._hit_rate_of(sequence)
        accepted = sum(hit_rate**number for number in range(1, count + 1))
        steps = min(self._most(sequence), EXPECTED_OUTPUT_TOKENS) / (1 + accepted)
        return steps * (accepted * worth - count * self._price)

    def _hit_rate_of(self, sequence: Sequence) -> float:
        """A sequence's own, as soon as it has one; until then what all others' was."""
        return self._hit_rate if sequence.draft_hit_rate is None else sequence.draft_hit_rate

    def _most(self, sequence: Sequence) -> int:
        left = sequence.max_tokens - sequence.num_generated - 1
        return min(left, self._max_sequence_tokens - len(sequence.tokens) - 1)
