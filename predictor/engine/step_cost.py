"""What a step costs on this machine, learnt from the steps that were computed.

    seconds = fixed + per_decode_token * decode tokens + per_prompt_token * prompt tokens

The first two terms are fitted to steps that only decode, the last to what others took beyond them.
"""

from __future__ import annotations

# Weight of the newest step: about the last twenty tell what decoding costs, the last ten what prompts do.
DECODE_SMOOTHING = 0.05
PROMPT_SMOOTHING = 0.2
# Least variance of the number of tokens per step that tells what one more costs.
LEAST_VARIANCE = 0.05
# Most that one step may raise the cost of a prompt token by: it may have been the machine's accident.
MOST_GROWTH = 1.2
# Below this many prompt tokens a step's time says little about the cost of one more.
MEASURABLE_TOKENS = 16


class StepCost:
    """Seconds of a step by its tokens."""

    def __init__(self) -> None:
        self._tokens = self._seconds = self._variance = self._covariance = 0.0
        self._per_decode_token = self._per_prompt_token = 0.0

    def observe(self, *, decode_tokens: int, prompt_tokens: int, seconds: float) -> None:
        """Take a finished step into account.

        Args:
            decode_tokens: of sequences that generate, guesses included.
            prompt_tokens: the rest.
            seconds: it took.
        """
        if prompt_tokens == 0:
            self._learn_decoding(decode_tokens, seconds)
        elif prompt_tokens >= MEASURABLE_TOKENS:
            spent = seconds - self.decoding(decode_tokens)
            self._learn_prompts(max(spent, seconds / 10) / prompt_tokens)

    def decoding(self, tokens: int) -> float:
        """Seconds of a step that only decodes so many tokens; 0 for none, and before one was seen."""
        if tokens == 0:
            return 0.0
        return max(0.0, self._seconds + self._per_decode_token * (tokens - self._tokens))

    @property
    def per_decode_token(self) -> float:
        """Seconds for one more token in a step that decodes; 0 before steps of different sizes were seen."""
        return self._per_decode_token

    @property
    def per_prompt_token(self) -> float:
        """Seconds for one more prompt token; 0 before any was measured."""
        return self._per_prompt_token

    def _learn_decoding(self, tokens: int, seconds: float) -> None:
        if self._tokens == 0:
            self._tokens, self._seconds = tokens, seconds
            return
        off_tokens, off_seconds = tokens - self._tokens, seconds - self._seconds
        self._tokens += DECODE_SMOOTHING * off_tokens
        self._seconds += DECODE_SMOOTHING * off_seconds
        self._variance += DECODE_SMOOTHING * (off_tokens * off_tokens - self._variance)
        self._covariance += DECODE_SMOOTHING * (off_tokens * off_seconds - self._covariance)
        if self._variance >= LEAST_VARIANCE:
            self._per_decode_token = max(0.0, self._covariance / self._variance)

    def _learn_prompts(self, per_token: float) -> None:
        """A step that took longer than thought counts at once, one that took less by and by."""
        old = self._per_prompt_token
        if old == 0:
            self._per_prompt_token = per_token
            return
        per_token = min(per_token, MOST_GROWTH * old)
        self._per_prompt_token = max(per_token, old + PROMPT_SMOOTHING * (per_token - old))
