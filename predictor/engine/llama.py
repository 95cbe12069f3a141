"""The only file that touches llama.cpp: thin owners of its C objects, each closed deterministically.

Nothing here is thread-safe except `Model.tokenize` and `Model.piece`: one thread owns a `Context`, its
`Batch` and its `Sampler`s. ctypes releases the GIL during every call.
"""

from __future__ import annotations

import ctypes
import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import llama_cpp.llama_cpp as lib
import numpy as np
import numpy.typing as npt

from predictor.engine.request import SamplingParams
from predictor.engine.vocabulary import Vocabulary
from predictor.errors import EngineFailure, InvalidRequest, ModelLoadError

logger = logging.getLogger("predictor.llama")

# llama.cpp's own default length of the window its penalties look at.
PENALTY_WINDOW = 64

# ggml_log_level's errors; its other levels are for developers.
_ERROR = 4
_CACHE_TYPES = {"f16": lib.GGML_TYPE_F16, "q8_0": lib.GGML_TYPE_Q8_0}
_FLASH_ATTENTION = {
    "auto": lib.LLAMA_FLASH_ATTN_TYPE_AUTO,
    "on": lib.LLAMA_FLASH_ATTN_TYPE_ENABLED,
    "off": lib.LLAMA_FLASH_ATTN_TYPE_DISABLED,
}
_recent_errors: deque[str] = deque(maxlen=8)


class KVCacheFullError(Exception):
    """llama.cpp found no free cells for a batch; the context is as it was before the call."""


class DecodeAbortedError(Exception):
    """The abort callback stopped a decode; what was computed of the batch stays in the cache."""


def _forward_log(level: int, text: bytes, _user_data: ctypes.c_void_p) -> None:
    message = text.decode("utf-8", "replace").rstrip()
    if level == _ERROR and message:
        _recent_errors.append(message)
    severity = logging.WARNING if level == _ERROR else logging.DEBUG
    if message and logger.isEnabledFor(severity):
        logger.log(severity, "%s", message)


# llama.cpp keeps the pointer for the life of the process.
_log_callback = lib.llama_log_callback(_forward_log)
_started = False


def _load_cpu_variants() -> None:
    """Load the best CPU backend where llama.cpp was built with one per instruction set, as in the image.

    llama.cpp itself looks for them beside the Python executable, but they lie beside its own library.
    """
    library = lib._lib
    library.ggml_backend_reg_count.restype = ctypes.c_size_t
    if not library.ggml_backend_reg_count():
        load = library.ggml_backend_load_all_from_path
        load.argtypes, load.restype = [ctypes.c_char_p], None
        load(str(Path(library._name).parent).encode())


def _start_backend() -> None:
    """Once per process, and not at import: it makes llama.cpp look for devices."""
    global _started
    if not _started:
        lib.llama_log_set(_log_callback, ctypes.c_void_p(0))
        _load_cpu_variants()
        lib.llama_backend_init()
        _started = True


@dataclass(frozen=True, slots=True)
class ContextParams:
    """How much a context holds and how it computes.

    Attributes:
        context_tokens: KV cache cells, shared by all sequences.
        batch_tokens: most tokens in one decode; a larger batch aborts the process.
        sequences: sequence ids, 0 to sequences - 1.
        threads: threads for decoding single tokens.
        batch_threads: threads for batches.
        flash_attention: auto, on or off.
        cache_type: of keys and values: f16 or q8_0.
    """

    context_tokens: int
    batch_tokens: int
    sequences: int
    threads: int
    batch_threads: int
    flash_attention: str = "auto"
    cache_type: str = "f16"


class _Owner:
    """Something that must be freed exactly once."""

    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _tb: TracebackType | None
    ) -> None:
        self.close()


class Model(_Owner):
    """Weights and vocabulary of one GGUF file.

    Args:
        path: the file, or the first part of a split one.
        gpu_layers: layers to put on a GPU; -1 for all.
        use_mmap: map the file instead of reading it.
        use_mlock: keep the weights in memory.

    Raises:
        ModelLoadError: llama.cpp refuses the file; the message carries its reason.
    """

    def __init__(
        self, path: Path, *, gpu_layers: int = 0, use_mmap: bool = True, use_mlock: bool = False
    ) -> None:
        _start_backend()
        params = lib.llama_model_default_params()
        params.n_gpu_layers = gpu_layers
        params.load_mode = (lib.LLAMA_LOAD_MODE_MMAP if use_mmap else lib.LLAMA_LOAD_MODE_NONE) + (
            lib.LLAMA_LOAD_MODE_MLOCK if use_mlock else 0
        )
        _recent_errors.clear()
        self._handle: Any = lib.llama_model_load_from_file(str(path).encode(), params)
        if not self._handle:
            reason = "; ".join(_recent_errors) or "no reason given"
            raise ModelLoadError(f"llama.cpp cannot load {path}: {reason}")
        self._vocab = lib.llama_model_get_vocab(self._handle)
        self.path = path
        self.n_vocab: int = lib.llama_vocab_n_tokens(self._vocab)
        self.trained_context: int = lib.llama_model_n_ctx_train(self._handle)
        self.end_tokens: tuple[int, ...] = tuple(
            token for token in range(self.n_vocab) if lib.llama_vocab_is_eog(self._vocab, token)
        )
        self._end_tokens = frozenset(self.end_tokens)
        self._pieces: dict[int, bytes] = {}

    @property
    def can_cut_prefix(self) -> bool:
        """Whether a sequence's cache can be shortened to any prefix: not so in recurrent models and
        in sliding-window ones."""
        return not (
            lib.llama_model_is_recurrent(self._handle)
            or lib.llama_model_is_hybrid(self._handle)
            or lib.llama_model_n_swa(self._handle) > 0
        )

    @property
    def can_generate(self) -> bool:
        """False for encoder-only models, which have no next token."""
        return bool(lib.llama_model_has_decoder(self._handle))

    @property
    def size_bytes(self) -> int:
        """Size of all tensors."""
        return int(lib.llama_model_size(self._handle))

    @property
    def description(self) -> str:
        """llama.cpp's one-line description, such as "llama ?B Q4_1"."""
        buffer = ctypes.create_string_buffer(256)
        lib.llama_model_desc(self._handle, buffer, len(buffer))
        return buffer.value.decode("utf-8", "replace")

    @property
    def chat_template(self) -> str | None:
        """The Jinja source in the GGUF, None when it has none."""
        source = lib.llama_model_chat_template(self._handle, None)
        return source.decode("utf-8", "replace") if source else None

    @property
    def bos_text(self) -> str:
        """The text of the beginning-of-sequence token, "" when there is none."""
        return self._special_text(lib.llama_vocab_bos(self._vocab))

    @property
    def eos_text(self) -> str:
        """The text of the end-of-sequence token, "" when there is none."""
        return self._special_text(lib.llama_vocab_eos(self._vocab))

    def _special_text(self, token: int) -> str:
        return "" if token < 0 else lib.llama_vocab_get_text(self._vocab, token).decode("utf-8", "replace")

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Token ids of a text.

        Args:
            text: any text; lone surrogates are replaced.
            add_special: add BOS and EOS where the model is trained with them.
            parse_special: read "<|im_end|>" and the like as control tokens, not as text.
        """
        data = text.encode("utf-8", "replace")
        room = len(data) + 8
        while True:
            tokens = (lib.llama_token * room)()
            count = lib.llama_tokenize(self._vocab, data, len(data), tokens, room, add_special, parse_special)
            if count >= 0:
                return list(tokens[:count])
            room = -count

    def piece(self, token: int) -> bytes:
        """The bytes a token stands for in generated text; empty for control tokens."""
        cached = self._pieces.get(token)
        if cached is None:
            cached = self._pieces[token] = self._read_piece(token)
        return cached

    def _read_piece(self, token: int) -> bytes:
        room = 64
        while True:
            buffer = ctypes.create_string_buffer(room)
            length = lib.llama_token_to_piece(self._vocab, token, buffer, room, 0, False)
            if length >= 0:
                return buffer.raw[:length]
            room = -length

    def vocabulary(self) -> Vocabulary:
        """All tokens; reading them takes about 3 microseconds each."""
        tokens = range(self.n_vocab)
        control = {
            token: lib.llama_vocab_get_text(self._vocab, token)
            for token in tokens
            if lib.llama_vocab_get_attr(self._vocab, token) & lib.LLAMA_TOKEN_ATTR_CONTROL
        }
        function = ctypes.cast(lib._lib.llama_tokenize, ctypes.c_void_p)
        return Vocabulary(
            pieces=tuple(self.piece(token) for token in tokens),
            control=control,
            end_tokens=self.end_tokens,
            address=self._vocab,
            tokenize_address=function.value or 0,
        )

    def is_end(self, token: int) -> bool:
        """Whether the model ends its turn with this token."""
        return token in self._end_tokens

    def close(self) -> None:
        if self._handle:
            lib.llama_model_free(self._handle)
            self._handle = None


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
        self.size = 0
        self.struct = lib.llama_batch(
            0,
            _pointer(self._tokens, lib.llama_token),
            None,
            _pointer(self._positions, lib.llama_pos),
            _pointer(self._one_each, ctypes.c_int32),
            _pointer(self._id_pointers, ctypes.POINTER(lib.llama_seq_id)),
            _pointer(self._wants_logits, ctypes.c_int8),
        )

    def clear(self) -> None:
        """Forget all tokens."""
        self.size = 0

    def add(self, tokens: Sequence[int], position: int, sequence_id: int, *, logits: bool) -> int:
        """Append consecutive tokens of one sequence.

        Args:
            tokens: at least one.
            position: of the first of them in the sequence.
            sequence_id: whose they are.
            logits: whether the last of them needs logits.

        Returns:
            The index of the last of them in the batch, which is where its logits will be.
        """
        start, end = self.size, self.size + len(tokens)
        if end > len(self._tokens):
            raise ValueError(f"batch of {len(self._tokens)} tokens is full")
        self._tokens[start:end] = tokens
        self._positions[start:end] = np.arange(position, position + len(tokens))
        self._sequence_ids[start:end] = sequence_id
        self._wants_logits[start:end] = 0
        self._wants_logits[end - 1] = logits
        self.size = end
        return end - 1


def _pointer(array: npt.NDArray[Any], kind: Any) -> Any:
    return array.ctypes.data_as(ctypes.POINTER(kind))


class Context(_Owner):
    """A KV cache and what computes over it.

    Args:
        model: must outlive the context.
        params: sizes and threads.
        should_abort: asked by llama.cpp in the middle of a decode; True stops it within milliseconds.

    Raises:
        ModelLoadError: llama.cpp cannot make it, mostly for want of memory.
    """

    def __init__(self, model: Model, params: ContextParams, should_abort: Callable[[], bool]) -> None:
        options = lib.llama_context_default_params()
        options.n_ctx = params.context_tokens
        options.n_batch = options.n_ubatch = params.batch_tokens
        options.n_seq_max = options.n_outputs_max = params.sequences
        options.n_threads = params.threads
        options.n_threads_batch = params.batch_threads
        options.type_k = options.type_v = _CACHE_TYPES[params.cache_type]
        options.flash_attn_type = _FLASH_ATTENTION[params.flash_attention]
        # One pool of cells for all sequences: any of them may grow, and a shared prefix is stored once.
        options.kv_unified = True
        # llama.cpp keeps the pointer, so the callback must live as long as the context.
        self._abort = lib.ggml_abort_callback(lambda _data: should_abort())
        options.abort_callback = self._abort
        options.no_perf = True
        _recent_errors.clear()
        self._handle: Any = lib.llama_init_from_model(model._handle, options)
        if not self._handle:
            reason = "; ".join(_recent_errors) or "not enough memory?"
            raise ModelLoadError(
                f"llama.cpp cannot create a context of {params.context_tokens} tokens: {reason}; "
                "try a smaller --context-tokens"
            )
        self._memory = lib.llama_get_memory(self._handle)
        self._row = ctypes.c_float * model.n_vocab

    def decode(self, batch: Batch) -> None:
        """Compute a batch.

        Raises:
            KVCacheFullError: no room; nothing was changed.
            DecodeAbortedError: `should_abort` said so.
            EngineFailure: llama.cpp failed.
        """
        batch.struct.n_tokens = batch.size
        status = lib.llama_decode(self._handle, batch.struct)
        if status == 0:
            return
        if status == 1:
            raise KVCacheFullError
        if status == 2:
            raise DecodeAbortedError
        raise EngineFailure(f"llama_decode failed with {status}: {'; '.join(_recent_errors)}")

    def logits(self, index: int) -> npt.NDArray[np.float32]:
        """The logits behind a batch index, shape [n_vocab]: a view, valid until the next decode."""
        pointer = lib.llama_get_logits_ith(self._handle, index)
        row: Any = self._row.from_address(ctypes.addressof(pointer.contents))
        return np.frombuffer(row, np.float32)

    def warm_up(self, token: int, batch: Batch) -> None:
        """Touch all weights and allocate the compute buffers, then forget what was computed."""
        lib.llama_set_warmup(self._handle, True)
        batch.clear()
        batch.add([token], 0, 0, logits=True)
        self.decode(batch)
        lib.llama_set_warmup(self._handle, False)
        lib.llama_memory_clear(self._memory, True)

    def remove(self, sequence_id: int, start: int = 0, end: int | None = None) -> bool:
        """Free a sequence's cells at positions start to end; False where the model can't cut there."""
        return bool(lib.llama_memory_seq_rm(self._memory, sequence_id, start, -1 if end is None else end))

    def copy(self, source: int, target: int, start: int, end: int) -> None:
        """Make `target` share the cells of `source` at positions start to end."""
        lib.llama_memory_seq_cp(self._memory, source, target, start, end)

    def save(self, sequence_id: int) -> npt.NDArray[np.uint8]:
        """A copy of a sequence's cells in llama.cpp's own format."""
        size = lib.llama_state_seq_get_size(self._handle, sequence_id)
        state = np.empty(size, np.uint8)
        written = lib.llama_state_seq_get_data(
            self._handle, _pointer(state, ctypes.c_uint8), size, sequence_id
        )
        return state[:written]

    def restore(self, sequence_id: int, state: npt.NDArray[np.uint8]) -> bool:
        """Give a sequence the cells of a saved state; False where llama.cpp can't read it or has no room."""
        pointer = _pointer(state, ctypes.c_uint8)
        read = lib.llama_state_seq_set_data(self._handle, pointer, state.nbytes, sequence_id)
        if read == 0:
            self.remove(sequence_id)
        return bool(read > 0)

    def close(self) -> None:
        if self._handle:
            lib.llama_free(self._handle)
            self._handle = None


class Sampler(_Owner):
    """Chooses tokens for one sequence with a native sampler chain, in the order llama.cpp's tools use.

    Args:
        model: whose tokens are chosen.
        params: checked sampling parameters.
        prompt: the penalties take its last tokens into account.

    Raises:
        InvalidRequest: `logit_bias` names a token that isn't in the vocabulary.
    """

    def __init__(self, model: Model, params: SamplingParams, prompt: Sequence[int]) -> None:
        self._biases = _biases(model, params)
        penalised = (
            params.repeat_penalty != 1 or params.presence_penalty != 0 or params.frequency_penalty != 0
        )
        # Without penalties a greedy choice is one argmax, four times cheaper than a chain of one.
        self._is_argmax = params.is_greedy and not penalised
        self._chain: Any = None
        if self._is_argmax:
            self._bias_ids = np.fromiter(self._biases, np.int64, len(self._biases))
            self._bias_values = np.fromiter(self._biases.values(), np.float32, len(self._biases))
            return
        self._chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        for part in _chain_parts(model, params, self._biases, penalised):
            lib.llama_sampler_chain_add(self._chain, part)
        for token in prompt[-PENALTY_WINDOW:] if penalised else ():
            lib.llama_sampler_accept(self._chain, token)

    def sample(self, context: Context, index: int) -> int:
        """Choose and accept a token from the logits behind a batch index."""
        if not self._is_argmax:
            return int(lib.llama_sampler_sample(self._chain, context._handle, index))
        logits = context.logits(index)
        if len(self._bias_ids):
            logits[self._bias_ids] += self._bias_values
        return int(logits.argmax())

    def close(self) -> None:
        if self._chain:
            lib.llama_sampler_free(self._chain)
            self._chain = None


def _biases(model: Model, params: SamplingParams) -> dict[int, float]:
    for token in params.logit_bias:
        if not 0 <= token < model.n_vocab:
            raise InvalidRequest(
                f"logit_bias names token {token}, but the vocabulary ends at {model.n_vocab - 1}",
                param="logit_bias",
            )
    biases = dict(params.logit_bias)
    if params.ignore_eos:
        biases.update(dict.fromkeys(model.end_tokens, -float("inf")))
    return biases


def _chain_parts(
    model: Model, params: SamplingParams, biases: dict[int, float], penalised: bool
) -> Iterable[Any]:
    if biases:
        entries = (lib.llama_logit_bias * len(biases))(*biases.items())
        yield lib.llama_sampler_init_logit_bias(model.n_vocab, len(biases), entries)
    if penalised:
        yield lib.llama_sampler_init_penalties(
            model.n_vocab,
            PENALTY_WINDOW,
            params.repeat_penalty,
            params.frequency_penalty,
            params.presence_penalty,
        )
    if params.is_greedy:
        yield lib.llama_sampler_init_greedy()
        return
    if params.top_k > 0:
        yield lib.llama_sampler_init_top_k(params.top_k)
    if params.typical_p < 1:
        yield lib.llama_sampler_init_typical(params.typical_p, 1)
    if params.top_p < 1:
        yield lib.llama_sampler_init_top_p(params.top_p, 1)
    if params.min_p > 0:
        yield lib.llama_sampler_init_min_p(params.min_p, 1)
    yield lib.llama_sampler_init_temp(params.temperature)
    seed = lib.LLAMA_DEFAULT_SEED if params.seed is None else params.seed
    yield lib.llama_sampler_init_dist(seed)
