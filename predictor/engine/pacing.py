"""How many prompt tokens fit into a step without making running streams wait too long."""

from __future__ import annotations

# Weight of the newest measurement; about the last ten steps count.
SMOOTHING = 0.2
# Part of a step's time that is left free, since tokens get dearer the longer a prompt has become.
MARGIN = 0.15
# Most that one step may raise the estimate by.
MOST_GROWTH = 1.2
# Below this many tokens a step's time says little about the cost of one more.
MEASURABLE_TOKENS = 16


class PrefillPacer:
    """Learns what decoding and prefilling cost on this machine and sizes prefill chunks by it.

    Args:
        max_step_seconds: how long a step that also decodes may take.
        max_lone_step_seconds: how long one that only prefills may take; a cancelled request waits for it.
        min_tokens: prompt tokens that are always allowed, so that prefilling never stands still.
    """

    def __init__(
        self, max_step_seconds: float, max_lone_step_seconds: float = 1.0, min_tokens: int = 16
    ) -> None:
        self._max_step_seconds = max_step_seconds
        self._max_lone_step_seconds = max_lone_step_seconds
        self._min_tokens = min_tokens
        self._decode_seconds = 0.0
        self._seconds_per_token = 0.0

    def budget(self, *, decoding: bool) -> int | None:
        """Prompt tokens for the next step; None before anything was measured.

        Args:
            decoding: whether running streams wait for the step.
        """
        if self._seconds_per_token == 0:
            return None
        seconds = self._max_lone_step_seconds
        if decoding:
            seconds = (1 - MARGIN) * self._max_step_seconds - self._decode_seconds
        return max(self._min_tokens, int(seconds / self._seconds_per_token))

    def observe(self, *, decode_tokens: int, prefill_tokens: int, seconds: float) -> None:
        """Take a finished step into account."""
        if prefill_tokens == 0:
            self._decode_seconds = _smooth(self._decode_seconds, seconds)
        elif prefill_tokens >= MEASURABLE_TOKENS:
            spent = seconds - (self._decode_seconds if decode_tokens else 0)
            self._learn(max(spent, seconds / 10) / prefill_tokens)

    def _learn(self, per_token: float) -> None:
        """A step that took longer than thought counts at once, unless it was an accident of the machine."""
        old = self._seconds_per_token
        if old:
            per_token = min(per_token, MOST_GROWTH * old)
        self._seconds_per_token = max(per_token, _smooth(old, per_token))


def _smooth(old: float, new: float) -> float:
    return new if old == 0 else old + SMOOTHING * (new - old)
