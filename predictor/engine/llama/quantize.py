"""llama.cpp's own quantiser."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import llama_cpp.llama_cpp as lib

from predictor.engine.llama.backend import log_readers, recent_errors, start_backend
from predictor.errors import ConversionError

# As llama-quant.cpp logs them: "[  12/ 272] blk.1.attn_k.weight - ..." and "quant size  =    90.12 MiB".
_TENSOR = re.compile(r"\[ *(\d+)/ *(\d+)\]")
_SIZE = re.compile(r"quant size += +([\d.]+) MiB")


def quantise(
    source: Path, target: Path, file_type: int, threads: int, on_tensor: Callable[[int, int], None]
) -> None:
    """Write a model in another format. Weights that are quantised already lose precision a second time.

    Args:
        source: a GGUF file, or the first part of a split one.
        target: the new file, always a whole one; overwritten where it exists.
        file_type: a `llama_ftype`.
        threads: that compute.
        on_tensor: told the number of the tensor that begins, from 1, and of all; on this thread.

    Raises:
        ConversionError: llama.cpp can't do it; the file may be there in part.
    """

    def read(message: str) -> None:
        if found := _TENSOR.match(message):
            on_tensor(int(found[1]), int(found[2]))

    with _reading_log(read):
        _run(source, target, _params(file_type, threads))


def quantised_bytes(source: Path, file_type: int) -> int:
    """Size of the tensors that `quantise` would write, to about 10 KB.

    Raises:
        ConversionError: llama.cpp can't read the model or doesn't know the type.
    """
    sizes: list[float] = []

    def read(message: str) -> None:
        if found := _SIZE.search(message):
            sizes.append(float(found[1]))

    params = _params(file_type, 1)
    params.dry_run = True
    with _reading_log(read):
        _run(source, source.with_suffix(".unused"), params)
    return int(sizes[-1] * 2**20)


def _params(file_type: int, threads: int) -> lib.llama_model_quantize_params:
    params = lib.llama_model_quantize_default_params()
    params.ftype = file_type
    params.nthread = threads
    params.allow_requantize = True
    return params


def _run(source: Path, target: Path, params: lib.llama_model_quantize_params) -> None:
    recent_errors.clear()
    if lib.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params)):
        raise ConversionError(f"llama.cpp cannot convert {source}: {'; '.join(recent_errors) or 'no reason'}")


@contextmanager
def _reading_log(read: Callable[[str], None]) -> Iterator[None]:
    start_backend()
    log_readers.append(read)
    try:
        yield
    finally:
        log_readers.remove(read)
