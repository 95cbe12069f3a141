"""Which formats this CPU is fast with, told from a model's header.

llama.cpp rearranges ("repacks") the weights of some formats when it loads them, for kernels that multiply
several rows at once; which formats depends on the CPU. The others run on the ordinary kernels, which are
slower for most formats, most of all when a token at a time is generated.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from predictor.models.gguf import GgufHeader, TensorHeader
from predictor.models.gguf_types import FILE_TYPES, TENSOR_TYPE_NAMES, TENSOR_TYPES

# At least this share of the weights must be repacked to call a model fast.
MOSTLY = 0.5
# Sizes this much apart still count as about the same.
SIZE_TOLERANCE = 0.25

FASTEST_FIRST = ("Q4_0", "IQ4_NL", "Q4_K_M", "Q8_0", "Q5_K_M", "Q6_K", "Q2_K")
"""File types to convert to, by the measured speed of those that x86 repacks (docs/formats.md)."""

_MAIN_TYPES = {"Q4_0": 2, "Q8_0": 8, "Q2_K": 10, "Q4_K_M": 12, "Q5_K_M": 13, "Q6_K": 14, "IQ4_NL": 20}
# Formats whose kernels for x86 multiply one row after the other: Q4_1, Q5_1 (docs/formats.md).
_SLOW_IN_BATCHES = frozenset({3, 7})
_X86 = ("x86_64", "AMD64")
_UNQUANTISED = frozenset({0, 1, 28, 30})  # F32, F16, F64, BF16
_LOOKED_UP = (
    "token_embd.weight",
    "per_layer_token_embd.weight",
    "position_embd.weight",
    "token_types.weight",
)


class IsRepacked(Protocol):
    """Whether a matrix of a `ggml_type` is repacked; see `predictor.engine.llama.cpu.is_repacked`."""

    def __call__(self, kind: int, columns: int, rows: int, experts: int) -> bool: ...


@dataclass(frozen=True, slots=True)
class FormatReport:
    """How a model's format suits the CPU.

    Attributes:
        quantisation: of the file, such as `Q4_1`.
        repacked_share: bytes of weights that are repacked, of all that are multiplied with; 0 to 1.
        slow_types: names of the tensors' types that aren't repacked, those with the most bytes first.
        faster: file type of about the same size that is repacked, None where there is none or no need.
    """

    quantisation: str
    repacked_share: float
    slow_types: tuple[str, ...]
    faster: str | None

    @property
    def is_fast(self) -> bool:
        """Whether most weights are repacked."""
        return self.repacked_share >= MOSTLY


def report_format(parts: Sequence[GgufHeader], is_repacked: IsRepacked) -> FormatReport:
    """Judge a model by its header.

    Args:
        parts: headers of the model, the first part first.
        is_repacked: asks the CPU.
    """
    matrices = _matrices(parts)
    share = _share(matrices, is_repacked)
    faster = _fastest_of_this_size(matrices, is_repacked) if share < MOSTLY else None
    return FormatReport(parts[0].quantisation, share, _slow_types(matrices, is_repacked), faster)


def gains_from_openblas(parts: Sequence[GgufHeader], is_repacked: IsRepacked) -> bool:
    """Whether OpenBLAS multiplies most of a model's weights faster than llama.cpp's own kernels.

    Args:
        parts: headers of the model, the first part first.
        is_repacked: asks the CPU, and is called only where the format leaves it open. What llama.cpp
            rearranges (with AMX, Q4_1 too) it multiplies by itself.
    """
    matrices = _matrices(parts)
    least = MOSTLY * sum(matrix.size for matrix in matrices)
    slow = [matrix for matrix in matrices if matrix.kind in _SLOW_IN_BATCHES]
    if platform.machine() not in _X86 or sum(matrix.size for matrix in slow) <= least:
        return False
    return sum(matrix.size for matrix in slow if not _asked(matrix, matrix.kind, is_repacked)) > least


def file_type_number(name: str) -> int | None:
    """The `llama_ftype` behind a name in any case, None where there is no such format."""
    return next((number for number, known in FILE_TYPES.items() if known == name.upper()), None)


def is_quantised(parts: Iterable[GgufHeader]) -> bool:
    """Whether any weights have lost precision already."""
    return any(tensor.kind not in _UNQUANTISED for part in parts for tensor in part.tensors)


def _matrices(parts: Sequence[GgufHeader]) -> list[TensorHeader]:
    """The weights that are multiplied with.

    Embeddings are only looked up, unless the model has no output matrix of its own and uses those of the
    tokens.
    """
    tensors = [tensor for part in parts for tensor in part.tensors]
    tied = not any(tensor.name == "output.weight" for tensor in tensors)
    looked_up = _LOOKED_UP[1:] if tied else _LOOKED_UP
    return [
        tensor
        for tensor in tensors
        if len(tensor.shape) in (2, 3)
        and min(tensor.shape[:2]) > 1
        and tensor.name.endswith(".weight")
        and tensor.name not in looked_up
    ]


def _share(matrices: Sequence[TensorHeader], is_repacked: IsRepacked) -> float:
    total = sum(matrix.size for matrix in matrices)
    fast = sum(matrix.size for matrix in matrices if _asked(matrix, matrix.kind, is_repacked))
    return fast / total if total else 1.0


def _slow_types(matrices: Sequence[TensorHeader], is_repacked: IsRepacked) -> tuple[str, ...]:
    sizes: Counter[str] = Counter()
    for matrix in matrices:
        if not _asked(matrix, matrix.kind, is_repacked):
            sizes[TENSOR_TYPE_NAMES.get(matrix.kind, f"type {matrix.kind}")] += matrix.size
    return tuple(name for name, _ in sizes.most_common())


def _fastest_of_this_size(matrices: Sequence[TensorHeader], is_repacked: IsRepacked) -> str | None:
    present = sum(matrix.size for matrix in matrices)
    for name in FASTEST_FIRST:
        kind = _MAIN_TYPES[name]
        suited = [matrix for matrix in matrices if _asked(matrix, kind, is_repacked)]
        size = sum(_size(matrix, kind) for matrix in matrices)
        mostly = sum(_size(matrix, kind) for matrix in suited) >= MOSTLY * size
        if mostly and abs(size - present) <= SIZE_TOLERANCE * present:
            return name
    return None


def _asked(matrix: TensorHeader, kind: int, is_repacked: IsRepacked) -> bool:
    columns, rows, *experts = matrix.shape
    if kind not in TENSOR_TYPES or columns % TENSOR_TYPES[kind][0]:
        return False
    return is_repacked(kind, columns, rows, experts[0] if experts else 1)


def _size(matrix: TensorHeader, kind: int) -> float:
    elements = matrix.shape[0] * matrix.shape[1] * (matrix.shape[2] if len(matrix.shape) == 3 else 1)
    block, block_bytes = TENSOR_TYPES[kind]
    return elements / block * block_bytes
