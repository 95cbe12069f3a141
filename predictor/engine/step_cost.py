"""What a step costs on this machine, learnt from the steps that were computed.

    seconds = fixed + per_decode_token * decode tokens + prompt part(tokens of the step)

The first two terms are fitted to steps that only decode. The prompt part is what others took beyond them. It
is no straight line: kernels change with the size of a batch, and some, such as OpenBLAS, first spend a fixed
time on the weights. So it is kept for sizes of steps, in steps of half an octave, and read between them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

# Weight of the newest step: about the last twenty tell what decoding costs, the last ten what prompts do.
DECODE_SMOOTHING = 0.05
PROMPT_SMOOTHING = 0.2
# Least variance of the number of tokens per step that tells what one more costs.
LEAST_VARIANCE = 0.05
# Most that one step may raise the cost of a size by: it may have been the machine's accident.
MOST_GROWTH = 1.2
# Sizes of steps that are told apart for each doubling.
SIZES_PER_OCTAVE = 2
# How fast it follows that steps take longer than those of their size did, as they do at the end of a long
# prompt, and the most that it follows.
DRIFT_SMOOTHING, MOST_DRIFT = 0.5, 1.5
# So much faster must prompts be read in smaller parts for these to be taken.
MUCH_FASTER = 1.5
# What a size cost is forgotten after so many steps with prompts of other sizes: texts and loads change.
FORGOTTEN_STEPS = 64


@dataclass(slots=True)
class _Size:
    """Steps of about one size.

    Attributes:
        tokens: in the step.
        prompt_tokens: those of prompts.
        seconds: beyond what decoding took.
        seen: number of the last such step.
    """

    tokens: float
    prompt_tokens: float
    seconds: float
    seen: int


class StepCost:
    """Seconds of a step by its tokens."""

    def __init__(self) -> None:
        self._tokens = self._seconds = self._variance = self._covariance = 0.0
        self._per_decode_token = 0.0
        self._sizes: dict[int, _Size] = {}
        self._prompt_steps = 0
        self._drift = 1.0

    def observe(self, *, decode_tokens: int, prompt_tokens: int, seconds: float) -> None:
        """Take a finished step into account.

        Args:
            decode_tokens: of sequences that generate, guesses included.
            prompt_tokens: the rest.
            seconds: it took.
        """
        if prompt_tokens == 0:
            self._learn_decoding(decode_tokens, seconds)
        else:
            spent = max(seconds - self.decoding(decode_tokens), seconds / 10)
            if expected := self._of_size(decode_tokens + prompt_tokens):
                drift = min(MOST_DRIFT, max(1.0, spent / expected))
                self._drift += DRIFT_SMOOTHING * (drift - self._drift)
            self._learn_prompts(decode_tokens + prompt_tokens, prompt_tokens, spent)

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
        """Seconds for a prompt token in the steps that read fastest; 0 before any was measured."""
        return min((size.seconds / size.prompt_tokens for size in self._sizes.values()), default=0.0)

    def reading(self, decode_tokens: int, prompt_tokens: int) -> float:
        """Seconds that prompt tokens add to a step, beside so many that decode; 0 before any was measured."""
        return self._drift * self._of_size(decode_tokens + prompt_tokens) if prompt_tokens else 0.0

    def _of_size(self, tokens: int) -> float:
        """Seconds of a step with prompts, beyond those for decoding, as steps of its size took."""
        if not self._sizes:
            return 0.0
        below, above = self._neighbours(tokens)
        if above is None:
            assert below is not None
            return below.seconds * tokens / below.tokens
        if below is None:
            return above.seconds * tokens / above.tokens
        part = (tokens - below.tokens) / max(above.tokens - below.tokens, 1e-9)
        return below.seconds + part * max(0.0, above.seconds - below.seconds)

    def most_prompt_tokens(self, decode_tokens: int, seconds: float, most: int) -> int:
        """How many prompt tokens a step can read in so many seconds beside its others, at most `most`.

        Where fewer are read much faster each, those: a kernel's fixed part may just not pay.
        """
        low, high = 0, most
        while low < high:
            middle = (low + high + 1) // 2
            if self.reading(decode_tokens, middle) <= seconds:
                low = middle
            else:
                high = middle - 1
        best = low
        for size in self._sizes.values():
            fewer = int(size.tokens) - decode_tokens
            per_token = size.seconds / size.prompt_tokens
            if 0 < fewer < best and MUCH_FASTER * per_token * best < self.reading(decode_tokens, best):
                best = fewer
        return best

    @property
    def largest(self) -> int:
        """Tokens of the largest step with prompts that was seen lately; 0 for none."""
        return int(max((size.tokens for size in self._sizes.values()), default=0))

    def _neighbours(self, tokens: int) -> tuple[_Size | None, _Size | None]:
        below = [size for size in self._sizes.values() if size.tokens <= tokens]
        above = [size for size in self._sizes.values() if size.tokens > tokens]
        return (
            max(below, key=lambda size: size.tokens, default=None),
            min(above, key=lambda size: size.tokens, default=None),
        )

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

    def _learn_prompts(self, tokens: int, prompt_tokens: int, seconds: float) -> None:
        """A step that took longer than thought counts at once, one that took less by and by."""
        self._prompt_steps += 1
        for number, size in list(self._sizes.items()):
            if self._prompt_steps - size.seen > FORGOTTEN_STEPS:
                del self._sizes[number]
        number = round(SIZES_PER_OCTAVE * math.log2(tokens))
        known = self._sizes.get(number)
        if known is None:
            self._sizes[number] = _Size(tokens, prompt_tokens, seconds, self._prompt_steps)
            return
        # As long as it would have taken for the size that is remembered.
        scaled = min(seconds * known.tokens / tokens, MOST_GROWTH * known.seconds)
        known.seconds = max(scaled, known.seconds + PROMPT_SMOOTHING * (scaled - known.seconds))
        moved = 1 + PROMPT_SMOOTHING * (tokens / known.tokens - 1)
        known.tokens *= moved
        known.seconds *= moved
        known.prompt_tokens += PROMPT_SMOOTHING * (prompt_tokens - known.prompt_tokens)
        known.seen = self._prompt_steps
