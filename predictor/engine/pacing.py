"""How many prompt tokens fit into a step without making running streams wait too long."""

from __future__ import annotations

from predictor.engine.step_cost import StepCost

# Part of a step's time that is left free, since tokens get dearer the longer a prompt has become.
MARGIN = 0.15


class PrefillPacer:
    """Sizes prefill chunks by what steps cost on this machine.

    Args:
        cost: learnt elsewhere.
        max_step_seconds: how long a step that also decodes may take.
        max_lone_step_seconds: how long one that only prefills may take; a cancelled request waits for it.
        min_tokens: prompt tokens that are always allowed, so that prefilling never stands still.
    """

    def __init__(
        self,
        cost: StepCost,
        max_step_seconds: float,
        max_lone_step_seconds: float = 1.0,
        min_tokens: int = 16,
    ) -> None:
        self._cost = cost
        self._max_step_seconds = max_step_seconds
        self._max_lone_step_seconds = max_lone_step_seconds
        self._min_tokens = min_tokens

    def spare_seconds(self, *, decode_tokens: int) -> float:
        """What is left of a step that decodes so many tokens while streams wait for it; may be negative."""
        return (1 - MARGIN) * self._max_step_seconds - self._cost.decoding(decode_tokens)

    def budget(self, *, decode_tokens: int, streams_wait: bool) -> int | None:
        """Prompt tokens for the next step; None before anything was measured.

        Args:
            decode_tokens: computed in the same step.
            streams_wait: whether running streams wait for the step, in it or not.
        """
        if self._cost.per_prompt_token == 0:
            return None
        seconds = self._max_lone_step_seconds
        if streams_wait:
            seconds = self.spare_seconds(decode_tokens=decode_tokens)
        return max(self._min_tokens, int(seconds / self._cost.per_prompt_token))
