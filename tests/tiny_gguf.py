"""Writes small GGUF files for tests of what reads them."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

Scalar = int | float | bool | str
TINY: Mapping[str, Scalar | list[Scalar]] = {
    "general.architecture": "llama",
    "general.file_type": 15,
    "llama.block_count": 2,
    "llama.context_length": 512,
    "llama.embedding_length": 64,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
}


@dataclass(frozen=True)
class Tensor:
    """A tensor of `shape`; `kind` is its `ggml_type` and `size` its bytes."""

    name: str
    shape: tuple[int, ...]
    kind: int
    size: int


TENSORS = (Tensor("token_embd.weight", (64, 8), 0, 2048), Tensor("blk.0.attn_q.weight", (64, 64), 2, 2304))


def tiny_gguf(
    metadata: Mapping[str, Scalar | list[Scalar]] = TINY, tensors: tuple[Tensor, ...] = TENSORS
) -> bytes:
    """A GGUF file, version 3, with the tensors' data all zero."""
    alignment = metadata.get("general.alignment", 32)
    assert isinstance(alignment, int)
    header = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    header += b"".join(string(key) + value(item) for key, item in metadata.items())
    data = b""
    for tensor in tensors:
        header += string(tensor.name) + struct.pack("<I", len(tensor.shape))
        header += struct.pack(f"<{len(tensor.shape)}QIQ", *tensor.shape, tensor.kind, len(data))
        data += bytes(tensor.size + -tensor.size % alignment)
    return header + bytes(-len(header) % alignment) + data


def string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def value(item: Scalar | list[Scalar]) -> bytes:
    if isinstance(item, list):
        kind, _ = typed(item[0])
        return struct.pack("<IIQ", 9, kind, len(item)) + b"".join(typed(one)[1] for one in item)
    kind, raw = typed(item)
    return struct.pack("<I", kind) + raw


def typed(item: Scalar) -> tuple[int, bytes]:
    match item:
        case bool():
            return 7, struct.pack("<?", item)
        case int():
            return 4, struct.pack("<I", item)
        case float():
            return 6, struct.pack("<f", item)
        case str():
            return 8, string(item)
