"""Low-rank adapters of a model."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as lib

from predictor.engine.llama.backend import recent_errors
from predictor.engine.llama.model import Model
from predictor.errors import ModelLoadError


class Adapter:
    """A LoRA adapter in memory; llama.cpp frees it with its model.

    Load it before the context is made, which allocates for the adapters that there are.

    Args:
        model: the one it was trained for.
        path: a GGUF file.
        scale: how strongly it is applied; 1 as it was trained.

    Raises:
        ModelLoadError: llama.cpp refuses the file; the message carries its reason.
    """

    def __init__(self, model: Model, path: Path, scale: float) -> None:
        recent_errors.clear()
        handle: Any = lib.llama_adapter_lora_init(model.handle, str(path).encode())
        if not handle:
            reason = "; ".join(recent_errors) or "no reason given"
            raise ModelLoadError(f"llama.cpp cannot load the adapter {path}: {reason}")
        if lib.llama_adapter_get_alora_n_invocation_tokens(handle):
            raise ModelLoadError(
                f"{path} is an activated LoRA, which works from certain tokens on only; that isn't supported"
            )
        self.handles = (lib.llama_adapter_lora_p_ctypes * 1)(handle)
        self.scales = (ctypes.c_float * 1)(scale)
