"""A decode is stopped in the middle, from another thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from predictor.engine.llama import AbortFlag, Batch, Context, ContextParams, DecodeAbortedError, Model

PROMPT_TOKENS = 2048


@pytest.fixture
def abort() -> AbortFlag:
    return AbortFlag()


@pytest.fixture
def context(model_path: Path, abort: AbortFlag) -> Iterator[Context]:
    params = ContextParams(
        context_tokens=PROMPT_TOKENS, batch_tokens=PROMPT_TOKENS, sequences=1, threads=1, batch_threads=1
    )
    with (
        closing(Model(model_path, gpu_layers=0, use_mmap=True, use_mlock=False)) as model,
        closing(Context(model, params, abort)) as context,
    ):
        yield context


def batch(tokens: int) -> Batch:
    """Tokens of one sequence, from its beginning on."""
    batch = Batch(PROMPT_TOKENS)
    batch.add([1000] * tokens, 0, 0, logits=True)
    return batch


def test_a_flag_that_is_not_set_stops_nothing(context: Context, abort: AbortFlag) -> None:
    context.decode(batch(2))
    assert not abort.is_set()


def test_nothing_is_computed_once_it_is_set(context: Context, abort: AbortFlag) -> None:
    abort.set()
    with pytest.raises(DecodeAbortedError):
        context.decode(batch(2))
    assert abort.is_set()


def test_a_decode_that_has_begun_is_stopped(context: Context, abort: AbortFlag) -> None:
    timer = threading.Timer(0.05, abort.set)
    timer.start()
    with pytest.raises(DecodeAbortedError):
        context.decode(batch(PROMPT_TOKENS))
    timer.join()
