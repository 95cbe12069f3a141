"""The KV cache and what computes over it."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap
from typing import Any

import llama_cpp.llama_cpp as lib
import numpy as np
import numpy.typing as npt

from predictor.engine.llama.abort import AbortFlag
from predictor.engine.llama.adapter import Adapter
from predictor.engine.llama.backend import Owner, pointer_to, recent_errors
from predictor.engine.llama.batch import Batch
from predictor.engine.llama.model import Model
from predictor.engine.past import Past
from predictor.errors import EngineFailure, ModelLoadError

_CACHE_TYPES = {"f16": lib.GGML_TYPE_F16, "q8_0": lib.GGML_TYPE_Q8_0}
_FLASH_ATTENTION = {
    "auto": lib.LLAMA_FLASH_ATTN_TYPE_AUTO,
    "on": lib.LLAMA_FLASH_ATTN_TYPE_ENABLED,
    "off": lib.LLAMA_FLASH_ATTN_TYPE_DISABLED,
}

_POOLING = {
    "mean": lib.LLAMA_POOLING_TYPE_MEAN,
    "cls": lib.LLAMA_POOLING_TYPE_CLS,
    "last": lib.LLAMA_POOLING_TYPE_LAST,
    "rank": lib.LLAMA_POOLING_TYPE_RANK,
}


class KVCacheFullError(Exception):
    """llama.cpp found no free cells for a batch; the context is as it was before the call."""


class DecodeAbortedError(Exception):
    """The abort callback stopped a decode; what was computed of the batch stays in the cache."""


@dataclass(frozen=True, slots=True)
class ContextParams:
    """How much a context holds and how it computes.

    Attributes:
        context_tokens: KV cache cells.
        batch_tokens: most tokens in one decode; a larger batch aborts the process.
        sequences: sequence ids, 0 to sequences - 1.
        threads: threads for decoding single tokens.
        batch_threads: threads for batches.
        flash_attention: auto, on or off.
        cache_type: of keys and values: f16 or q8_0.
        full_window: keep all cells of layers with a sliding window, instead of those that it still sees.
        shared_cells: one pool of cells for all sequences, of which any may grow and several may hold the
            same; otherwise each has an equal part.
        rollback: tokens that can be taken back of a recurrent state, where the model can that at all.
        outputs: most tokens of one decode that get logits; 0 for one of each sequence.
        pooling: mean, cls, last or rank for vectors of whole sequences instead of logits.
    """

    context_tokens: int
    batch_tokens: int
    sequences: int
    threads: int
    batch_threads: int
    flash_attention: str = "auto"
    cache_type: str = "f16"
    full_window: bool = False
    shared_cells: bool = True
    rollback: int = 0
    outputs: int = 0
    pooling: str | None = None


class Context(Owner):
    """A KV cache and what computes over it.

    Args:
        model: must outlive the context.
        params: sizes and threads.
        abort: stops decodes in the middle; None where nothing needs to.

    Raises:
        ModelLoadError: llama.cpp cannot make it, mostly for want of memory.
    """

    def __init__(self, model: Model, params: ContextParams, abort: AbortFlag | None = None) -> None:
        options = lib.llama_context_default_params()
        options.n_ctx = params.context_tokens
        options.n_batch = options.n_ubatch = params.batch_tokens
        options.n_seq_max = params.sequences
        options.n_outputs_max = params.outputs or params.sequences
        self._is_pooled = params.pooling is not None
        if params.pooling is not None:
            options.embeddings = True
            options.pooling_type = _POOLING[params.pooling]
            # llama.cpp pools over the outputs, so every token must be one. Where it measures its buffers it
            # rounds the tokens up to a multiple of the sequences, but not the outputs, and aborts.
            tokens = -(-params.batch_tokens // params.sequences) * params.sequences
            options.n_batch = options.n_ubatch = options.n_outputs_max = tokens
            options.n_ctx = max(params.context_tokens, tokens)
        options.n_threads = params.threads
        options.n_threads_batch = params.batch_threads
        options.type_k = options.type_v = _CACHE_TYPES[params.cache_type]
        options.flash_attn_type = _FLASH_ATTENTION[params.flash_attention]
        options.kv_unified = params.shared_cells
        options.swa_full = params.full_window
        options.n_rs_seq = params.rollback
        # llama.cpp keeps the pointers, so the flag must live as long as the context.
        self._abort = abort
        if abort is not None:
            options.abort_callback, options.abort_callback_data = abort.callback, abort.data
        options.no_perf = True
        recent_errors.clear()
        self.handle: Any = lib.llama_init_from_model(model.handle, options)
        if not self.handle:
            reason = "; ".join(recent_errors) or "not enough memory?"
            raise ModelLoadError(
                f"llama.cpp cannot create a context of {params.context_tokens} tokens: {reason}; "
                "try a smaller --context-tokens"
            )
        self._memory = lib.llama_get_memory(self.handle)
        self._past, self._window = model.past, model.window
        self._rollback = int(lib.llama_n_rs_seq(self.handle))
        self._adapter: Adapter | None = None
        self._row = ctypes.c_float * model.n_vocab
        is_score = params.pooling == "rank"
        self._pooled_size = int(
            lib.llama_model_n_cls_out(model.handle) if is_score else lib.llama_model_n_embd_out(model.handle)
        )

    def decode(self, batch: Batch) -> None:
        """Compute a batch.

        Raises:
            KVCacheFullError: no room; nothing was changed.
            DecodeAbortedError: the flag was set.
            EngineFailure: llama.cpp failed.
        """
        batch.struct.n_tokens = batch.size
        if self._is_pooled:
            batch.mark_all()
        status = lib.llama_decode(self.handle, batch.struct)
        if status == 0:
            return
        if status == 1:
            raise KVCacheFullError
        if status == 2:
            raise DecodeAbortedError
        raise EngineFailure(f"llama_decode failed with {status}: {'; '.join(recent_errors)}")

    def use_adapter(self, adapter: Adapter | None) -> None:
        """Compute the next batches with an adapter, or with the model alone."""
        if adapter is self._adapter:
            return
        if adapter is None:
            status = lib.llama_set_adapters_lora(self.handle, None, 0, None)
        else:
            status = lib.llama_set_adapters_lora(self.handle, adapter.handles, 1, adapter.scales)
        if status != 0:
            raise EngineFailure(f"llama_set_adapters_lora failed with {status}")
        self._adapter = adapter

    def logits(self, index: int) -> npt.NDArray[np.float32]:
        """The logits behind a batch index, shape [n_vocab]: a view, valid until the next decode."""
        pointer = lib.llama_get_logits_ith(self.handle, index)
        row: Any = self._row.from_address(ctypes.addressof(pointer.contents))
        return np.frombuffer(row, np.float32)

    def pooled(self, sequence_id: int) -> npt.NDArray[np.float32]:
        """A copy of what the last decode made of a sequence, shape [size of an embedding] or [labels].

        Raises:
            EngineFailure: there is none.
        """
        pointer = lib.llama_get_embeddings_seq(self.handle, sequence_id)
        if not pointer:
            raise EngineFailure("llama.cpp gave no vector for a sequence")
        return np.ctypeslib.as_array(pointer, (self._pooled_size,)).copy()

    def warm_up(self, token: int, batch: Batch) -> None:
        """Touch all weights and allocate the compute buffers, then forget what was computed."""
        lib.llama_set_warmup(self.handle, True)
        batch.clear()
        batch.add([token], 0, 0, logits=True)
        self.decode(batch)
        lib.llama_set_warmup(self.handle, False)
        self.clear()

    def clear(self) -> None:
        """Free all cells."""
        lib.llama_memory_clear(self._memory, True)

    def remove(self, sequence_id: int, start: int = 0, end: int | None = None) -> bool:
        """Free a sequence's cells at positions start to end; False where the model can't cut there."""
        return bool(lib.llama_memory_seq_rm(self._memory, sequence_id, start, -1 if end is None else end))

    def copy(self, source: int, target: int, start: int, end: int) -> None:
        """Make `target` share the cells of `source` at positions start to end; in one pool only."""
        lib.llama_memory_seq_cp(self._memory, source, target, start, end)

    def takes_back(self, tokens: int) -> bool:
        """Whether so many tokens that a decode just computed for a sequence can be removed again."""
        return not self._past.has_state or tokens <= self._rollback

    def least_length(self, sequence_id: int) -> int:
        """The shortest beginning of a sequence to which `remove` can cut it."""
        first = int(lib.llama_memory_seq_pos_min(self._memory, sequence_id))
        if self._past is Past.ALL or first < 0:
            return 0
        if self._past.has_state:
            return int(lib.llama_memory_seq_pos_max(self._memory, sequence_id)) + 1
        # The token behind the cut looks at itself and the `window - 1` before it.
        return first + self._window - 1 if first else 0

    def save(self, sequence_id: int, *, partial: bool = False) -> npt.NDArray[np.uint8]:
        """A copy of a sequence's cells in llama.cpp's own format.

        Args:
            sequence_id: whose.
            partial: only what can't be cut: the sliding windows' cells or the recurrent layers' state.
        """
        flags = lib.LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY if partial else lib.LLAMA_STATE_SEQ_FLAGS_NONE
        size = lib.llama_state_seq_get_size_ext(self.handle, sequence_id, flags)
        # Pages of its own: freed states of many sizes would leave holes of tens of MiB in malloc's memory.
        state = np.frombuffer(mmap(-1, max(size, 1), MAP_PRIVATE | MAP_ANONYMOUS), np.uint8)
        written = lib.llama_state_seq_get_data_ext(
            self.handle, pointer_to(state, ctypes.c_uint8), size, sequence_id, flags
        )
        return state[:written]

    def restore(self, sequence_id: int, state: npt.NDArray[np.uint8], *, partial: bool = False) -> bool:
        """Give a sequence the cells of a saved state; False where llama.cpp can't read it or has no room,
        then it has none.

        Args:
            sequence_id: whose cells are replaced, in part where the state is partial.
            state: what `save` gave.
            partial: as it was saved.
        """
        flags = lib.LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY if partial else lib.LLAMA_STATE_SEQ_FLAGS_NONE
        pointer = pointer_to(state, ctypes.c_uint8)
        read = lib.llama_state_seq_set_data_ext(self.handle, pointer, state.nbytes, sequence_id, flags)
        if read == 0:
            self.remove(sequence_id)
        return bool(read > 0)

    def close(self) -> None:
        if self.handle:
            lib.llama_free(self.handle)
            self.handle = None
