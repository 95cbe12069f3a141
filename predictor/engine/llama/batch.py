"""What one decode computes."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import llama_cpp.llama_cpp as lib
import numpy as np

from predictor.engine.llama.backend import pointer_to


class Batch:
    """Tokens for one decode, in numpy arrays that llama.cpp reads in place.

    Args:
        capacity: most tokens it holds.
    """

    def __init__(self, capacity: int) -> None:
        self._tokens = np.zeros(capacity, np.int32)
        self._positions = np.zeros(capacity, np.int32)
        self._sequence_ids = np.zeros(capacity, np.int32)
        self._wants_logits = np.zeros(capacity, np.int8)
        self._one_each = np.ones(capacity, np.int32)
        first = self._sequence_ids.ctypes.data
        self._id_pointers = np.arange(first, first + 4 * capacity, 4, dtype=np.uintp)
        self.capacity = capacity
        self.size = 0
        self.struct = lib.llama_batch(
            0,
            pointer_to(self._tokens, lib.llama_token),
            None,
            pointer_to(self._positions, lib.llama_pos),
            pointer_to(self._one_each, ctypes.c_int32),
            pointer_to(self._id_pointers, ctypes.POINTER(lib.llama_seq_id)),
            pointer_to(self._wants_logits, ctypes.c_int8),
        )

    def clear(self) -> None:
        """Forget all tokens."""
        self.size = 0

    def add(
        self,
        tokens: Sequence[int],
        position: int,
        sequence_id: int,
        *,
        logits: bool,
        all_logits: bool = False,
    ) -> int:
        """Append consecutive tokens of one sequence.

        Args:
            tokens: at least one.
            position: of the first of them in the sequence.
            sequence_id: whose they are.
            logits: whether the last of them needs logits.
            all_logits: whether each of them does.

        Returns:
            The index of the last of them in the batch, which is where its logits will be.
        """
        start, end = self.size, self.size + len(tokens)
        if end > len(self._tokens):
            raise ValueError(f"batch of {len(self._tokens)} tokens is full")
        self._tokens[start:end] = tokens
        self._positions[start:end] = np.arange(position, position + len(tokens))
        self._sequence_ids[start:end] = sequence_id
        self._wants_logits[start:end] = all_logits
        self._wants_logits[end - 1] = logits or all_logits
        self.size = end
        return end - 1

    def mark_all(self) -> None:
        """Ask for the output of every token."""
        self._wants_logits[: self.size] = 1
