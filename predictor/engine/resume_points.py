"""Where the state of a sequence that can't be cut is kept, so that later ones go on from there.

A sequence that begins like another one can only go on where the other's state was kept: behind the beginning
that several share, and before the last message's start. Behind the prompt comes what the model answers, which
templates often show otherwise in the next turn; and the same prompt again needs its last token computed.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Collection

from predictor.engine.prefix_cache import WORTH_SAVING_TOKENS
from predictor.engine.sequence import Sequence

# How far from its end the last message's start is looked for in a prompt.
LAST_MESSAGE_TOKENS = 64


class ResumePoints:
    """Plans at which places of sequences the state is kept.

    Args:
        is_control: whether a token structures text, such as the start of a message.
    """

    def __init__(self, is_control: Callable[[int], bool]) -> None:
        self._is_control = is_control

    def plan(self, sequence: Sequence, shared: int) -> None:
        """Plan a sequence that is about to be computed.

        Args:
            sequence: with as many tokens computed as it could take over.
            shared: the longest beginning that any other has or had.
        """
        done = sequence.num_computed
        sequence.stops = []
        for place in (min(shared, len(sequence.tokens) - 1), self._last_message(sequence.tokens)):
            if place - done >= WORTH_SAVING_TOKENS:
                sequence.stops.append(place)
                done = place

    def share(self, sequence: Sequence, shared: int) -> int:
        """Have a running sequence keep its state for one that shares a beginning with it.

        Args:
            sequence: that computes the beginning.
            shared: how many tokens they share.

        Returns:
            Behind how many tokens it will be kept; 0 where it is too late or not worth it.
        """
        near = [stop for stop in sequence.stops if stop <= shared and stop > sequence.num_computed]
        if near and shared - max(near) < WORTH_SAVING_TOKENS:
            return max(near)
        if shared - sequence.num_computed < WORTH_SAVING_TOKENS:
            return max(near, default=0)
        # One place for all whose beginnings differ little.
        kept = [s for s in sequence.stops if not shared < s < shared + WORTH_SAVING_TOKENS]
        sequence.stops = sorted({*kept, shared})
        return shared

    def _last_message(self, tokens: Collection[int]) -> int:
        """Where the last message starts, or the last token where nothing says so."""
        last = len(tokens) - 1
        for place in range(last, max(0, last - LAST_MESSAGE_TOKENS), -1):
            if self._is_control(tokens[place]):
                return place
        return last
