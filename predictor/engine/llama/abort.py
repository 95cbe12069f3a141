"""Stopping a decode in the middle."""

from __future__ import annotations

import ctypes

import llama_cpp.llama_cpp as lib


class AbortFlag:
    """Stops decodes within milliseconds once it is set, from any thread and for good.

    llama.cpp asks a C function between any two operations, hundreds of times a step. One in Python takes
    a microsecond and the GIL each time, so it is libc's `strlen`, of a text that is empty until it is set.

    Attributes:
        callback, data: what llama.cpp calls, and with which argument; both live as long as the flag.
    """

    def __init__(self) -> None:
        self._text = ctypes.create_string_buffer(2)
        self.callback = ctypes.cast(ctypes.CDLL(None).strlen, lib.ggml_abort_callback)
        self.data = ctypes.cast(self._text, ctypes.c_void_p)

    def set(self) -> None:
        """Stop what is computed, and whatever is begun from now on."""
        self._text[0] = b"!"

    def is_set(self) -> bool:
        """Whether `set` was called."""
        return bool(self._text.value)
