"""Whether a model fits into memory, told from its header before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from predictor.errors import ModelLoadError
from predictor.models.gguf import GgufHeader
from predictor.models.gguf_types import TENSOR_TYPES

KV_TYPES = {"f16": TENSOR_TYPES[1], "q8_0": TENSOR_TYPES[8]}
MAX_LAYERS = 4096
GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes that a model takes at least; compute buffers and the process itself come on top.

    Attributes:
        weights: tensor data of all parts, and of the adapters.
        kv_cache: keys and values of all context tokens.
    """

    weights: int
    kv_cache: int

    @property
    def total(self) -> int:
        """Bytes of weights and KV cache together."""
        return self.weights + self.kv_cache


def check_memory(
    parts: Sequence[GgufHeader],
    context_tokens: int,
    memory_limit: int | None,
    kv_cache_type: str = "f16",
    adapter_bytes: int = 0,
) -> MemoryEstimate:
    """Refuse a model that can't fit into memory, before the kernel kills the process for it.

    Args:
        parts: headers of the model, the first part first.
        context_tokens: tokens the KV cache holds, over all sequences.
        memory_limit: bytes this process may use; None where it isn't known, then nothing is refused.
        kv_cache_type: number format of the KV cache, `f16` or `q8_0`.
        adapter_bytes: size of the LoRA adapters' files.

    Raises:
        ModelLoadError: weights and KV cache are larger than the limit.
    """
    estimate = MemoryEstimate(
        weights=sum(part.weights_bytes for part in parts) + adapter_bytes,
        kv_cache=kv_cache_bytes(parts[0], context_tokens, kv_cache_type),
    )
    if memory_limit is None or estimate.total <= memory_limit:
        return estimate
    if estimate.weights >= memory_limit:
        advice = "raise the memory limit or take a smaller quantisation"
    else:
        advice = "raise the memory limit, take a smaller quantisation, or set a smaller context"
    raise ModelLoadError(
        f"{parts[0].path} does not fit into memory: {_gib(estimate.weights)} of weights and "
        f"{_gib(estimate.kv_cache)} of KV cache for {context_tokens:,} tokens, "
        f"but the limit is {_gib(memory_limit)}; {advice}"
    )


def kv_cache_bytes(header: GgufHeader, context_tokens: int, kv_cache_type: str = "f16") -> int:
    """Bytes of a KV cache of `context_tokens` tokens; a lower bound.

    Per layer and token: heads times (key length + value length), as `llama_kv_cache` allocates them in
    llama.cpp. Layers with a sliding window count the window only, recurrent layers nothing, and layers that
    reuse another layer's cache nothing. 0 where the header doesn't say enough.

    Raises:
        ModelLoadError: a value in the header is out of range or has the wrong type.
    """
    layers = _layers(header)
    heads = _per_layer(header, "attention.head_count", layers)
    if not any(heads):
        return 0
    kv_heads = (
        _per_layer(header, "attention.head_count_kv", layers) if _has(header, "head_count_kv") else heads
    )
    first_heads = heads[0] or max(heads)
    head_size = _integer(header, "embedding_length") // first_heads
    key_size = _integer(header, "attention.key_length", head_size)
    # With multi-head latent attention the values are part of the keys (DeepSeek).
    latent = _has(header, "key_length_mla")
    value_size = 0 if latent else _integer(header, "attention.value_length", head_size)
    tokens = _tokens_per_layer(header, layers, context_tokens)
    pairs = zip(kv_heads, tokens, strict=True)
    values = sum(count * held * (key_size + value_size) for count, held in pairs)
    block, block_bytes = KV_TYPES[kv_cache_type]
    return values * block_bytes // block


def _tokens_per_layer(header: GgufHeader, layers: int, context_tokens: int) -> list[int]:
    """How many tokens each layer's cache holds."""
    window = _integer(header, "attention.sliding_window")
    held = [min(window, context_tokens) if window else context_tokens] * layers
    pattern = header.metadata.get(f"{header.architecture}.attention.sliding_window_pattern")
    if isinstance(pattern, tuple) and len(pattern) == layers:
        held = [few if slides else context_tokens for few, slides in zip(held, pattern, strict=True)]
    # Qwen3-Next and the like: only every n-th layer has a KV cache, the others are recurrent.
    interval = _integer(header, "full_attention_interval")
    if interval:
        held = [tokens if (layer + 1) % interval == 0 else 0 for layer, tokens in enumerate(held)]
    shared = min(layers, _integer(header, "attention.shared_kv_layers"))
    return held[: layers - shared] + [0] * shared


def _layers(header: GgufHeader) -> int:
    if not 0 <= header.layers <= MAX_LAYERS:
        raise _unusable(header, "block_count", header.layers)
    return header.layers


def _per_layer(header: GgufHeader, name: str, layers: int) -> list[int]:
    """A value that is given once, or once for each layer."""
    value = header.metadata.get(f"{header.architecture}.{name}", 0)
    if not isinstance(value, tuple):
        return [_integer(header, name)] * layers
    if len(value) < layers or not all(isinstance(item, int) and 0 <= item < 1 << 32 for item in value):
        raise _unusable(header, name, value)
    return [int(item) for item in value[:layers]]


def _integer(header: GgufHeader, name: str, default: int = 0) -> int:
    value = header.integer(f"{header.architecture}.{name}", default)
    if not 0 <= value < 1 << 32:
        raise _unusable(header, name, value)
    return value


def _has(header: GgufHeader, name: str) -> bool:
    return f"{header.architecture}.attention.{name}" in header.metadata


def _unusable(header: GgufHeader, name: str, value: object) -> ModelLoadError:
    return ModelLoadError(
        f"{header.path}: metadata {header.architecture}.{name} is {value!r:.60}, which can't be right; "
        "the file is damaged, get it again"
    )


def _gib(size: int) -> str:
    return f"{size / GIB:.2f} GiB"
