"""OpenBLAS as a backend of llama.cpp, for batches in formats that its own kernels are slow with.

llama.cpp then multiplies matrices of 32 rows and more with it, and smaller ones by itself. The backend is
llama.cpp's own, compiled beside llama-cpp-python's libraries (scripts/openblas); the library is PyPI's
scipy-openblas32.
"""

from __future__ import annotations

import ctypes
import os
import sysconfig
from functools import cache
from pathlib import Path

import llama_cpp.llama_cpp as lib

from predictor.engine.llama.backend import start_backend


def backend_files() -> tuple[Path, Path] | None:
    """llama.cpp's backend and the library itself; None where one of them isn't installed."""
    backend, library = _places()
    return (backend, library) if backend.exists() and library.exists() else None


def what_is_missing() -> str:
    """Why there is no OpenBLAS, for a person; what pip installs is only half of it."""
    backend, library = _places()
    if not library.exists():
        return "the package scipy-openblas32 isn't installed"
    if not backend.exists():
        return "llama.cpp's backend for it isn't installed, which only `make setup` and the image compile"
    return "llama.cpp can't load its backend for it"


def _places() -> tuple[Path, Path]:
    packages = Path(sysconfig.get_path("purelib"))
    backend = packages / "llama_cpp" / "lib" / "openblas" / "libggml-blas.so"
    return backend, packages / "scipy_openblas32" / "lib" / "libscipy_openblas.so"


@cache
def load_openblas() -> bool:
    """Have every context that is made from now on use OpenBLAS; False where it can't be loaded."""
    files = backend_files()
    if files is None:
        return False
    backend, library = files
    start_backend()
    # It starts threads as it is loaded unless told not to; llama.cpp has enough.
    told = os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        ctypes.CDLL(str(library))
    finally:
        if told == "1":
            del os.environ["OPENBLAS_NUM_THREADS"]
    load = lib._lib.ggml_backend_load
    load.argtypes, load.restype = [ctypes.c_char_p], ctypes.c_void_p
    return bool(load(str(backend).encode()))
