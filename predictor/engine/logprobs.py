"""Log-probabilities from logits."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from predictor.engine.request import TokenLogprob

Logits = npt.NDArray[np.float32]


class LogSoftmax:
    """The model's own distribution at one place, before any sampling option changed it.

    Args:
        logits: shape [n_vocab]; read here once, so it may change afterwards.
        top: how many of the most likely tokens to report.
        piece: bytes of a token.
    """

    def __init__(self, logits: Logits, top: int, piece: Callable[[int], bytes]) -> None:
        highest = float(logits.max())
        self._log_sum = highest + math.log(float(np.exp(logits - highest).sum(dtype=np.float64)))
        self._logits = logits.copy()
        self._piece = piece
        self._top = tuple(self._entry(int(token)) for token in _largest(logits, top))

    def of(self, token: int) -> TokenLogprob:
        """The entry for the token that was chosen."""
        entry = self._entry(token)
        return TokenLogprob(token, entry.piece, entry.logprob, self._top)

    def _entry(self, token: int) -> TokenLogprob:
        return TokenLogprob(token, self._piece(token), float(self._logits[token]) - self._log_sum)


def _largest(logits: Logits, count: int) -> npt.NDArray[np.intp]:
    """Indices of the largest logits, largest first."""
    if count == 0:
        return np.empty(0, np.intp)
    largest = np.argpartition(logits, -count)[-count:]
    return largest[np.argsort(-logits[largest], kind="stable")]
