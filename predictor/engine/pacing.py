"""How many prompt tokens fit into a step without making running streams wait too long."""

from __future__ import annotations

import logging

from predictor.engine.step_cost import StepCost

logger = logging.getLogger(__name__)

# Part of a step's time that is left free, since tokens get dearer the longer a prompt has become.
MARGIN = 0.15
# While streams wait, a step grows by no more than this over those before: kernels change with the size.
MOST_GROWTH = 2


class PrefillPacer:
    """Sizes prefill chunks by what steps cost on this machine.

    Args:
        cost: learnt elsewhere.
        max_step_seconds: how long a step that also decodes may take.
        max_lone_step_seconds: how long one that only prefills may take; a cancelled request waits for it.
        min_tokens: prompt tokens that are always allowed, so that prefilling never stands still.
        most_tokens: in a step, whatever it takes.
    """

    def __init__(
        self,
        cost: StepCost,
        max_step_seconds: float,
        max_lone_step_seconds: float = 1.0,
        min_tokens: int = 8,
        most_tokens: int = 8192,
    ) -> None:
        self._cost = cost
        self._max_step_seconds = max_step_seconds
        self._max_lone_step_seconds = max_lone_step_seconds
        self._min_tokens = min_tokens
        self._most_tokens = most_tokens
        self._has_said = False

    def spare_seconds(self, *, decode_tokens: int) -> float:
        """What is left of a step that decodes so many tokens while streams wait for it; may be negative."""
        return (1 - MARGIN) * self._max_step_seconds - self._cost.decoding(decode_tokens)

    def budget(self, *, decode_tokens: int, streams_wait: bool) -> int | None:
        """Prompt tokens for the next step; None where nothing limits them.

        Args:
            decode_tokens: computed in the same step.
            streams_wait: whether running streams wait for the step, in it or not.
        """
        if not streams_wait:
            if not self._cost.largest:
                return None
            seconds = self._max_lone_step_seconds
            fitting = self._cost.most_prompt_tokens(decode_tokens, seconds, self._most_tokens)
            return max(self._min_tokens, fitting)
        seconds = self.spare_seconds(decode_tokens=decode_tokens)
        if not self._cost.largest:
            # Reading a token takes no longer than generating one.
            alone = self._cost.decoding(1)
            return max(self._min_tokens, int(seconds / alone)) if alone else self._min_tokens
        most = min(self._most_tokens, MOST_GROWTH * self._cost.largest)
        fitting = self._cost.most_prompt_tokens(decode_tokens, seconds, most)
        if fitting < self._min_tokens:
            self._say(decode_tokens)
        return max(self._min_tokens, fitting)

    def _say(self, decode_tokens: int) -> None:
        """Once: the bound can't be kept."""
        least = self._cost.decoding(decode_tokens) + self._cost.reading(decode_tokens, self._min_tokens)
        if self._has_said or least <= self._max_step_seconds:
            return
        self._has_said = True
        logger.warning(
            "%d streams wait up to %.0f ms for a token while a prompt is read, however small its parts: "
            "--max-inter-token-latency-ms %.0f can't be kept on this machine",
            decode_tokens,
            least * 1000,
            self._max_step_seconds * 1000,
        )
