"""Models that are made worse on purpose, by llama.cpp's own quantiser."""

from __future__ import annotations

import ctypes
from pathlib import Path

import llama_cpp


def quantise(source: Path, target: Path, kind: int) -> Path:
    """Write `source` in another quantisation."""
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize, params.nthread = kind, True, 2
    status = llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params))
    assert status == 0
    return target


def q2_k(source: Path, folder: Path) -> Path:
    """In Q2_K, which spoils a model of the demo model's size."""
    return quantise(source, folder / "Q2_K.gguf", llama_cpp.LLAMA_FTYPE_MOSTLY_Q2_K)


def q3_k_m(source: Path, folder: Path) -> Path:
    """In Q3_K_M: other answers, hardly worse ones."""
    return quantise(source, folder / "Q3_K_M.gguf", llama_cpp.LLAMA_FTYPE_MOSTLY_Q3_K_M)
