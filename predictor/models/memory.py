"""Whether a model fits into memory, told from its header before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from predictor.errors import ModelLoadError
from predictor.models.cache_size import CacheShape, cache_bytes
from predictor.models.gguf import GgufHeader

GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes that a model takes at least; compute buffers and the process itself come on top.

    Attributes:
        weights: tensor data of all parts, and of the adapters.
        kv_cache: keys, values and recurrent states of all sequences.
        draft: both, of the draft model.
    """

    weights: int
    kv_cache: int
    draft: int = 0

    @property
    def total(self) -> int:
        """Bytes of all that."""
        return self.weights + self.kv_cache + self.draft


def check_memory(
    parts: Sequence[GgufHeader],
    shape: CacheShape,
    memory_limit: int | None,
    adapter_bytes: int = 0,
) -> MemoryEstimate:
    """Refuse a model that can't fit into memory, before the kernel kills the process for it.

    Args:
        parts: headers of the model, the first part first.
        shape: of the KV cache.
        memory_limit: bytes this process may use; None where it isn't known, then nothing is refused.
        adapter_bytes: size of the LoRA adapters' files.

    Raises:
        ModelLoadError: weights and KV cache are larger than the limit.
    """
    estimate = MemoryEstimate(
        weights=sum(part.weights_bytes for part in parts) + adapter_bytes,
        kv_cache=cache_bytes(parts[0], shape),
    )
    if memory_limit is None or estimate.total <= memory_limit:
        return estimate
    if estimate.weights >= memory_limit:
        advice = "raise the memory limit or take a smaller quantisation"
    else:
        advice = "raise the memory limit, take a smaller quantisation, or set a smaller context"
    raise ModelLoadError(
        f"{parts[0].path} does not fit into memory: {_gib(estimate.weights)} of weights and "
        f"{_gib(estimate.kv_cache)} of KV cache for {shape.tokens:,} tokens, "
        f"but the limit is {_gib(memory_limit)}; {advice}"
    )


def _gib(size: int) -> str:
    return f"{size / GIB:.2f} GiB"
