"""Speed and perplexity of a model on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import pairwise
from pathlib import Path

import numpy as np

from predictor.engine.llama import Batch, Context, ContextParams, Model
from predictor.errors import ConversionError

WINDOW = 512
"""Tokens read at once; of each window the second half is scored, as llama.cpp's llama-perplexity does."""

DECODED_TOKENS = 48


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one model does.

    Attributes:
        prefill: prompt tokens read per second, in one batch of up to `WINDOW` tokens.
        decode: tokens per second of one sequence, one token after the other.
        perplexity: of the text; lower is better.
        scored_tokens: tokens of the text that the perplexity is over.
    """

    prefill: float
    decode: float
    perplexity: float
    scored_tokens: int


def default_text() -> str:
    """9 KB from Isaac Newton's Opticks (fourth edition, 1730), which is in the public domain."""
    return files("predictor.formats").joinpath("opticks.txt").read_text(encoding="utf-8")


def measure(
    path: Path, text: str, threads: int, on_progress: Callable[[float], None] = lambda _share: None
) -> Measurement:
    """Load a model and run it over a text.

    Args:
        path: a GGUF file, or the first part of a split one.
        text: what the perplexity is measured on.
        threads: that compute.
        on_progress: told the share that is done, 0 to 1.

    Raises:
        ModelLoadError: the model can't be loaded.
        ConversionError: the text is too short.
    """
    with Model(path) as model:
        size = min(WINDOW, model.trained_context)
        windows = _windows(model, text, size)
        params = ContextParams(
            context_tokens=size + DECODED_TOKENS,
            batch_tokens=size,
            sequences=1,
            threads=threads,
            batch_threads=threads,
            outputs=size,
        )
        with Context(model, params) as context:
            return _Trial(context, Batch(size), windows, on_progress).run()


def _windows(model: Model, text: str, size: int) -> list[list[int]]:
    """The text's tokens in whole windows, each beginning as the model was trained."""
    start = model.tokenize("", add_special=True, parse_special=False)[:1]
    tokens = model.tokenize(text, add_special=False, parse_special=False)
    step = size - len(start)
    windows = [start + tokens[i : i + step] for i in range(0, len(tokens) - step + 1, step)]
    if not windows:
        raise ConversionError(f"the text has {len(tokens)} tokens; at least {step} are needed: a longer one")
    return windows


class _Trial:
    def __init__(
        self,
        context: Context,
        batch: Batch,
        windows: Sequence[list[int]],
        on_progress: Callable[[float], None],
    ) -> None:
        self._context = context
        self._batch = batch
        self._windows = windows
        self._on_progress = on_progress

    def run(self) -> Measurement:
        self._context.warm_up(self._windows[0][0], self._batch)
        first = self._windows[0]
        prefill = len(first) / min(self._read(first), self._read(first))
        decode = DECODED_TOKENS / self._decode(first)
        losses: list[float] = []
        for number, window in enumerate(self._windows, 1):
            losses += self._losses(window)
            self._on_progress(number / len(self._windows))
        return Measurement(prefill, decode, float(np.exp(np.mean(losses))), len(losses))

    def _read(self, tokens: list[int]) -> float:
        """Seconds for one batch of all tokens."""
        self._context.remove(0)
        self._batch.clear()
        self._batch.add(tokens, 0, 0, logits=True)
        return self._timed_decode()

    def _decode(self, tokens: list[int]) -> float:
        """Seconds for the next tokens, one by one; it doesn't matter which they are."""
        seconds = 0.0
        for offset in range(DECODED_TOKENS):
            self._batch.clear()
            self._batch.add([tokens[offset % len(tokens)]], len(tokens) + offset, 0, logits=True)
            seconds += self._timed_decode()
        return seconds

    def _timed_decode(self) -> float:
        started = time.perf_counter()
        self._context.decode(self._batch)
        return time.perf_counter() - started

    def _losses(self, window: list[int]) -> list[float]:
        """Negative log-likelihoods of the tokens in the second half."""
        self._context.remove(0)
        self._batch.clear()
        half = len(window) // 2
        for position, token in enumerate(window):
            self._batch.add([token], position, 0, logits=position >= half)
        self._context.decode(self._batch)
        return [self._loss(i, following) for i, (_, following) in enumerate(pairwise(window)) if i >= half]

    def _loss(self, index: int, following: int) -> float:
        logits = self._context.logits(index).astype(np.float64)
        peak = logits.max()
        return float(peak + np.log(np.exp(logits - peak).sum()) - logits[following])
