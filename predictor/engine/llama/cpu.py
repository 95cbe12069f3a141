"""What llama.cpp's CPU backend can do on this processor."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from functools import cache
from typing import Any

import llama_cpp.llama_cpp as lib

from predictor.engine.llama.backend import start_backend

_Pointer = ctypes.c_void_p
_CPU_DEVICE = 0  # GGML_BACKEND_DEVICE_TYPE_CPU
_COLUMNS = 512  # of the other factor, as in llama.cpp's own question
_EXPERTS_USED = 2


class _Feature(ctypes.Structure):
    _fields_ = (("name", ctypes.c_char_p), ("value", ctypes.c_char_p))


class _InitParams(ctypes.Structure):
    _fields_ = (("mem_size", ctypes.c_size_t), ("mem_buffer", _Pointer), ("no_alloc", ctypes.c_bool))


def cpu_features() -> tuple[str, ...]:
    """Instruction sets that the loaded CPU backend uses here, by ggml's names, such as `AVX512`."""
    kind = ctypes.CFUNCTYPE(ctypes.POINTER(_Feature), _Pointer)
    features = _from_registry(b"ggml_backend_get_features", kind)
    found = features(_registry()) if features is not None else None
    return tuple(_names(found)) if found else ()


def _names(features: Any) -> Iterator[str]:
    index = 0
    while (feature := features[index]).name:
        if feature.value == b"1":
            yield feature.name.decode()
        index += 1


@cache
def is_repacked(kind: int, columns: int, rows: int, experts: int = 1) -> bool:
    """Whether llama.cpp rearranges such a matrix at load time for a faster kernel of this CPU.

    Asked of ggml in the way llama.cpp's model loader does (`weight_buft_supported` in
    llama-model-loader.cpp), so it covers all rearranged layouts that the library was built with.

    Args:
        kind: a `ggml_type` that ggml knows; its blocks must fit into a row.
        columns: numbers in a row.
        rows: of the matrix.
        experts: matrices in one tensor, in a mixture of experts.
    """
    start_backend()
    call = _Functions()
    context = call.init(_InitParams(8 * call.tensor_overhead(), None, True))
    try:
        weights, product = _product(call, context, kind, columns, rows, experts)
        return any(_runs_on(call, buffer_type, weights, product) for buffer_type in _extra_buffer_types())
    finally:
        call.free(context)


def _product(
    call: _Functions, context: Any, kind: int, columns: int, rows: int, experts: int
) -> tuple[int, int]:
    """The matrix, and its product with activations."""
    if experts == 1:
        weights = call.tensor(context, kind, columns, rows)
        other = call.tensor(context, lib.GGML_TYPE_F32, columns, _COLUMNS)
        return weights, call.mul_mat(context, weights, other)
    weights = call.tensor(context, kind, columns, rows, experts)
    other = call.tensor(context, lib.GGML_TYPE_F32, columns, _EXPERTS_USED, _COLUMNS)
    chosen = call.tensor(context, lib.GGML_TYPE_I32, _EXPERTS_USED, _COLUMNS)
    return weights, call.mul_mat_id(context, weights, other, chosen)


def _runs_on(call: _Functions, buffer_type: int, weights: int, product: int) -> bool:
    buffer = call.alloc_buffer(buffer_type, 0)
    # The field `buffer` of `struct ggml_tensor`, which follows its type.
    _Pointer.from_address(weights + ctypes.sizeof(_Pointer)).value = buffer
    try:
        return bool(call.supports_op(_device(), product))
    finally:
        call.free_buffer(buffer)


def _extra_buffer_types() -> Iterator[int]:
    kind = ctypes.CFUNCTYPE(ctypes.POINTER(_Pointer), _Pointer)
    extra = _from_registry(b"ggml_backend_dev_get_extra_bufts", kind)
    found = extra(_device()) if extra is not None else None
    index = 0
    while found and found[index]:
        yield found[index]
        index += 1


@cache
def _device() -> int | None:
    start_backend()
    return _function("ggml_backend_dev_by_type", _Pointer, ctypes.c_int)(_CPU_DEVICE)  # type: ignore[no-any-return]


@cache
def _registry() -> int | None:
    return _function("ggml_backend_dev_backend_reg", _Pointer, _Pointer)(_device())  # type: ignore[no-any-return]


def _from_registry(name: bytes, kind: Any) -> Any:
    """A function that a backend has beyond the common ones, None where it hasn't."""
    find = _function("ggml_backend_reg_get_proc_address", _Pointer, _Pointer, ctypes.c_char_p)
    address = find(_registry(), name)
    return kind(address) if address else None


def _function(name: str, result: Any, *arguments: Any) -> Any:
    # A new prototype each time: llama_cpp's own uses of the function keep theirs.
    prototype = ctypes.CFUNCTYPE(result, *arguments)
    return prototype((name, lib._lib))


class _Functions:
    """The part of ggml that builds a product without computing it."""

    def __init__(self) -> None:
        size = ctypes.c_size_t
        self.tensor_overhead = _function("ggml_tensor_overhead", size)
        self.init = _function("ggml_init", _Pointer, _InitParams)
        self.free = _function("ggml_free", None, _Pointer)
        self.mul_mat = _function("ggml_mul_mat", _Pointer, _Pointer, _Pointer, _Pointer)
        self.mul_mat_id = _function("ggml_mul_mat_id", _Pointer, _Pointer, _Pointer, _Pointer, _Pointer)
        self.alloc_buffer = _function("ggml_backend_buft_alloc_buffer", _Pointer, _Pointer, size)
        self.free_buffer = _function("ggml_backend_buffer_free", None, _Pointer)
        self.supports_op = _function("ggml_backend_dev_supports_op", ctypes.c_bool, _Pointer, _Pointer)
        extents = ctypes.POINTER(ctypes.c_int64)
        self._new = _function("ggml_new_tensor", _Pointer, _Pointer, ctypes.c_int, ctypes.c_int, extents)

    def tensor(self, context: Any, kind: int, *shape: int) -> int:
        return int(self._new(context, kind, len(shape), (ctypes.c_int64 * len(shape))(*shape)))
