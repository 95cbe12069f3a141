"""Repeated sampling with one seed."""

from __future__ import annotations

from collections.abc import Callable

TRIES = 4


def repeats(ask: Callable[[], object]) -> bool:
    """Whether two calls in a row agree, within a few tries.

    Where a sequence's cells lie in the KV cache changes llama.cpp's rounding, which can tip one sampled token
    now and then (docs/guarantees.md). Samples with different seeds practically never agree.
    """
    last = ask()
    for _ in range(TRIES):
        previous, last = last, ask()
        if previous == last:
            return True
    return False
