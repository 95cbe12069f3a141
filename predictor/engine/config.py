"""What an engine is told, and what it tells about itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from predictor.engine.prefix_store import PrefixStore

DEFAULT_CONTEXT_TOKENS = 8192


class Pooling(StrEnum):
    """How a sequence's token states become one vector: their mean, the first, the last, or the scores that a
    classification head makes of one of them."""

    MEAN = "mean"
    CLS = "cls"
    LAST = "last"
    RANK = "rank"


def kv_cache_tokens(
    asked: int | None, *, sequence_tokens: int | None, sequences: int, trained_context: int
) -> int:
    """Cells of the KV cache.

    Args:
        asked: set by the user, who is right.
        sequence_tokens: longest a sequence may get; then each may get that long.
        sequences: most that run at once.
        trained_context: tokens; 0 where the model doesn't say.
    """
    if asked is not None:
        return asked
    if sequence_tokens is not None:
        return sequence_tokens * sequences
    return min(trained_context or DEFAULT_CONTEXT_TOKENS, DEFAULT_CONTEXT_TOKENS)


def fits_slots(context_tokens: int, *, sequence_tokens: int | None, sequences: int) -> bool:
    """Whether every sequence can have cells of its own for its full length, instead of sharing one pool.

    Args:
        context_tokens: cells of the KV cache.
        sequence_tokens: longest a sequence may get; None for all cells.
        sequences: most that run at once.
    """
    return (sequence_tokens or context_tokens) * sequences <= context_tokens


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """A LoRA adapter to load with the model.

    Attributes:
        path: a GGUF file.
        scale: how strongly it is applied; 1 as it was trained.
    """

    path: Path
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Everything an engine needs to know.

    Attributes:
        model_path: a GGUF file, or the first part of a split one.
        threads: for steps that only decode.
        batch_threads: for steps that prefill.
        context_tokens: cells of the KV cache, for all sequences together; None takes what they can
            use, or the model's trained context, at most DEFAULT_CONTEXT_TOKENS, where nothing limits them.
        max_sequence_tokens: longest a sequence may get, prompt and answer; None for all of the KV cache.
        max_sequences: most sequences in one batch.
        max_batch_tokens: most tokens in one step.
        max_queue: most requests waiting beside the running ones.
        max_step_seconds: aimed-at length of steps that decode and prefill.
        draft_ngrams: guess tokens from the text so far.
        draft_model: a smaller GGUF with the same vocabulary that guesses tokens; None for none.
        draft_tokens: most guesses for a sequence in one step.
        gpu_layers: layers on a GPU; -1 for all.
        flash_attention: auto, on or off.
        cache_type: of keys and values: f16 or q8_0.
        full_window: keep all cells of layers with a sliding window, not only those that it still sees.
        host_cache_bytes: memory for prefixes beyond the KV cache; 0 for none.
        prefix_store: where prefixes outlive the process; None keeps none.
        openblas: compute large batches with OpenBLAS where it is installed; then so does every engine that
            this process starts later.
        pooling: makes the engine give vectors instead of text.
        use_mmap, use_mlock: how the weights get into memory.
        adapters: by the name that requests use.
    """

    model_path: Path
    threads: int
    batch_threads: int
    context_tokens: int | None = None
    max_sequence_tokens: int | None = None
    max_sequences: int = 16
    max_batch_tokens: int = 512
    max_queue: int = 256
    max_step_seconds: float = 0.5
    draft_ngrams: bool = False
    draft_model: Path | None = None
    draft_tokens: int = 8
    gpu_layers: int = 0
    flash_attention: str = "auto"
    cache_type: str = "f16"
    full_window: bool = False
    host_cache_bytes: int = 256 * 2**20
    prefix_store: PrefixStore | None = None
    openblas: bool = False
    pooling: Pooling | None = None
    use_mmap: bool = True
    use_mlock: bool = False
    adapters: Mapping[str, AdapterConfig] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Totals since the start, and the state at the moment of asking.

    Attributes:
        running, waiting: sequences now.
        kv_used, kv_capacity: cells of the KV cache, retained prefixes included.
        kv_pinned: cells of the running sequences.
        host_cache_bytes: state of prefixes in ordinary memory.
        steps: batches computed.
        decode_seconds: time inside llama_decode.
        step_seconds: the same plus scheduling, sampling and delivery.
        prompt_tokens, generated_tokens: computed and sampled.
        prefix_queried_tokens, prefix_hit_tokens: prompt tokens looked up and found in the prefix cache.
        preemptions: sequences that gave up their place.
        running_adapters, waiting_adapters: names of the adapters that running and waiting sequences use.
        drafted_tokens, accepted_tokens: guessed by speculative decoding, and kept.
        unanswered: seconds that each request has waited that has no token yet.
    """

    running: int = 0
    waiting: int = 0
    kv_used: int = 0
    kv_capacity: int = 0
    kv_pinned: int = 0
    host_cache_bytes: int = 0
    steps: int = 0
    decode_seconds: float = 0.0
    step_seconds: float = 0.0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    prefix_queried_tokens: int = 0
    prefix_hit_tokens: int = 0
    preemptions: int = 0
    running_adapters: tuple[str, ...] = ()
    waiting_adapters: tuple[str, ...] = ()
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    unanswered: tuple[float, ...] = ()

    def at_the_end(self) -> EngineStats:
        """The same totals, and nothing that runs, waits or takes memory."""
        return replace(
            self,
            running=0,
            waiting=0,
            kv_used=0,
            kv_pinned=0,
            host_cache_bytes=0,
            running_adapters=(),
            waiting_adapters=(),
            unanswered=(),
        )
