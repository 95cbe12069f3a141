"""llama.cpp as a library: started once per process, its log forwarded, its objects owned."""

from __future__ import annotations

import ctypes
import logging
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import llama_cpp.llama_cpp as lib
import numpy.typing as npt

logger = logging.getLogger("predictor.llama")

# ggml_log_level's errors; its other levels are for developers.
_ERROR = 4
recent_errors: deque[str] = deque(maxlen=8)
# Those who read progress out of llama.cpp's log; called with each message, on the thread it comes from.
log_readers: list[Callable[[str], None]] = []


def _forward_log(level: int, text: bytes, _user_data: ctypes.c_void_p) -> None:
    message = text.decode("utf-8", "replace").rstrip()
    for read in log_readers:
        read(message)
    if level == _ERROR and message:
        recent_errors.append(message)
    severity = logging.WARNING if level == _ERROR else logging.DEBUG
    if message and logger.isEnabledFor(severity):
        logger.log(severity, "%s", message)


# llama.cpp keeps the pointer for the life of the process.
_log_callback = lib.llama_log_callback(_forward_log)
_started = False


def _load_cpu_variants() -> None:
    """Load the best CPU backend where llama.cpp was built with one per instruction set, as in the image.

    llama.cpp itself looks for them beside the Python executable, but they lie beside its own library.
    """
    library = lib._lib
    library.ggml_backend_reg_count.restype = ctypes.c_size_t
    if not library.ggml_backend_reg_count():
        load = library.ggml_backend_load_all_from_path
        load.argtypes, load.restype = [ctypes.c_char_p], None
        load(str(Path(library._name).parent).encode())


def start_backend() -> None:
    """Once per process, and not at import: it makes llama.cpp look for devices."""
    global _started
    if not _started:
        lib.llama_log_set(_log_callback, ctypes.c_void_p(0))
        _load_cpu_variants()
        lib.llama_backend_init()
        _started = True


class Owner:
    """Something that must be freed exactly once."""

    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _tb: TracebackType | None
    ) -> None:
        self.close()


def pointer_to(array: npt.NDArray[Any], kind: Any) -> Any:
    """A C pointer to an array's memory, valid as long as the array."""
    return array.ctypes.data_as(ctypes.POINTER(kind))
