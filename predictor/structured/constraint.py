"""Constraints on one sequence's tokens, made from a compiled grammar."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from predictor.errors import InvalidRequest
from predictor.structured.thinking import Pieces, ThoughtTracker

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer


# What one answer may take of the decode thread, on which all others wait: a usual mask takes 0.05 ms.
FREE_SECONDS = 1.0
SECONDS_PER_TOKEN = 0.002


class GrammarConstraint:
    """Holds a whole answer to a grammar; see `predictor.engine.constraint.TokenConstraint`.

    Args:
        matcher: at its start, and of this constraint alone.
        n_vocab: tokens in the vocabulary.
        param: the request field that the grammar comes from.
    """

    def __init__(self, matcher: LLMatcher, n_vocab: int, param: str) -> None:
        self._matcher = matcher
        self._n_vocab = n_vocab
        self._param = param
        self._bits = np.empty((n_vocab + 31) // 32 * 4, np.uint8)
        self._seconds_left = FREE_SECONDS

    @property
    def must_end(self) -> bool:
        """True once the grammar allows nothing more."""
        return self._matcher.is_stopped()

    def mask(self, logits: npt.NDArray[np.float32]) -> None:
        """Forbid what the grammar doesn't allow next; 20 to 100 microseconds on 49,000 tokens."""
        started = time.thread_time()
        self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
        self._check()
        allowed = np.unpackbits(self._bits, count=self._n_vocab, bitorder="little")
        np.copyto(logits, -np.inf, where=allowed == 0)
        self._seconds_left += SECONDS_PER_TOKEN - (time.thread_time() - started)
        if self._seconds_left < 0:
            raise self._failure("it takes too long for each token")

    def accept(self, token: int) -> None:
        """Take the token that was sampled."""
        self._matcher.consume_token(token)
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise self._failure(self._matcher.get_error().partition("\n")[0])

    def _failure(self, reason: str) -> InvalidRequest:
        return InvalidRequest(f"{self._param} can't be followed any further: {reason}", param=self._param)


class TriggeredConstraint:
    """Leaves an answer free until a marker appears in it, and holds what follows to a grammar.

    After that the answer is free again up to the next marker. Markers in thoughts count for nothing.

    Args:
        matcher: of what follows a marker, at its start; it is copied.
        tokenizer: of the matcher.
        pieces: bytes of each token, those of marks included.
        marker: what starts it.
        once: whether the answer ends after the first such part.
        at_start: whether only the answer's start can be a marker.
        thought: follows the answer's thought, None where there is none.
        param: the request field that the grammar comes from.
    """

    def __init__(
        self,
        matcher: LLMatcher,
        tokenizer: LLTokenizer,
        pieces: Pieces,
        *,
        marker: bytes,
        once: bool,
        param: str,
        at_start: bool = False,
        thought: ThoughtTracker | None = None,
    ) -> None:
        self._start = matcher
        self._tokenizer = tokenizer
        self._pieces = pieces
        self._marker = marker
        self._once = once
        self._param = param
        self._at_start = at_start
        self._thought = thought
        self._tail = b""
        self._inner: GrammarConstraint | None = None
        self._is_over = False
        self.must_end = False

    def mask(self, logits: npt.NDArray[np.float32]) -> None:
        """Forbid what the grammar doesn't allow next; outside of it nothing is forbidden."""
        if self._inner is not None:
            self._inner.mask(logits)

    def accept(self, token: int) -> None:
        """Take the token that was sampled."""
        if self._inner is None:
            piece = self._pieces[token]
            if self._thought is not None:
                piece = self._thought.behind(piece)
            if piece and not self._is_over:
                self._look_for_marker(piece)
            return
        self._inner.accept(token)
        if self._inner.must_end:
            self._inner = None
            self.must_end = self._once

    def _look_for_marker(self, piece: bytes) -> None:
        text = self._tail + piece
        if self._at_start:
            text = text.lstrip()
            # Nothing but the marker's own beginning may stand before its end.
            self._is_over = not (text.startswith(self._marker) or self._marker.startswith(text))
        before, marker, after = text.partition(self._marker)
        if not marker:
            keep = len(before) if self._at_start else len(self._marker) - 1
            self._tail = before[max(0, len(before) - keep) :]
            return
        self._tail = b""
        self._is_over = self._at_start
        matcher = self._start.deep_copy()
        # A token may hold more than the end of the marker; where that doesn't fit, the answer stays free.
        tokens = self._tokenizer.tokenize_bytes(after) if after else []
        if matcher.validate_tokens(tokens) == len(tokens):
            matcher.consume_tokens(tokens)
            self._inner = GrammarConstraint(matcher, len(self._pieces), self._param)
