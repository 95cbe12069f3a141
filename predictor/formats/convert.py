"""Writing a model in another format without ever leaving half a file."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from predictor.engine.llama.quantize import quantise, quantised_bytes
from predictor.errors import ConversionError
from predictor.formats.repacking import file_type_number
from predictor.models.gguf_types import FILE_TYPES

_WAIT_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Conversion:
    """A conversion that can be expected to succeed.

    Attributes:
        source: a GGUF file, or the first part of a split one.
        target: a file that doesn't exist yet.
        file_type: `llama_ftype` to write.
        tensor_bytes: size of the tensors to write.
    """

    source: Path
    target: Path
    file_type: int
    tensor_bytes: int

    @property
    def quantisation(self) -> str:
        """Name of the format to write."""
        return FILE_TYPES[self.file_type]


def plan_conversion(source: Path, target: Path, quantisation: str, header_bytes: int) -> Conversion:
    """Check everything that can be checked before anything is written.

    Args:
        source: a GGUF file, or the first part of a split one.
        target: where to write.
        quantisation: name of the format to write, such as `Q4_0`, in any case.
        header_bytes: bytes of the source that aren't tensors.

    Raises:
        ConversionError: the target exists, its folder doesn't or has no room, the format is unknown, or
            llama.cpp can't convert the model.
    """
    file_type = file_type_number(quantisation)
    if file_type is None:
        raise ConversionError(f"unknown format {quantisation!r}; known: {', '.join(FILE_TYPES.values())}")
    _refuse_existing(target)
    folder = target.parent
    if not folder.is_dir():
        raise ConversionError(f"{folder} is not a folder: create it, or choose another place to write to")
    conversion = Conversion(source, target, file_type, quantised_bytes(source, file_type))
    needed = conversion.tensor_bytes + header_bytes
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ConversionError(
            f"{folder} has {free / 2**20:,.0f} MiB free, but the new file takes {needed / 2**20:,.0f} MiB: "
            "make room, or write it elsewhere"
        )
    return conversion


def convert(conversion: Conversion, threads: int, on_tensor: Callable[[int, int], None]) -> None:
    """Write the new file under another name first and rename it when it is complete.

    Args:
        conversion: what to write.
        threads: that compute.
        on_tensor: told the number of the tensor that begins, from 1, and of all; on another thread.

    Raises:
        ConversionError: llama.cpp failed, or the target has come to exist.
        KeyboardInterrupt: the user stopped it. Nothing is left on the disk, but llama.cpp still computes on
            a thread, so the process must end without waiting for it.
    """
    partial = conversion.target.with_name(f".{conversion.target.name}.{os.getpid()}.part")
    failures: list[Exception] = []

    def work() -> None:
        try:
            quantise(conversion.source, partial, conversion.file_type, threads, on_tensor)
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=work, name="quantise", daemon=True)
    try:
        thread.start()
        while thread.is_alive():  # Waiting in pieces lets Ctrl-C through: llama.cpp itself can't be stopped.
            thread.join(_WAIT_SECONDS)
        if failures:
            raise failures[0]
        _publish(partial, conversion.target)
    finally:
        partial.unlink(missing_ok=True)


def _publish(partial: Path, target: Path) -> None:
    """Give a complete file its name, unless somebody else has taken that meanwhile."""
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    try:
        os.link(partial, target)
    except FileExistsError:
        _refuse_existing(target)
    except OSError:  # a file system without hard links
        _refuse_existing(target)
        partial.rename(target)


def _refuse_existing(target: Path) -> None:
    if target.exists() or target.is_symlink():
        raise ConversionError(f"{target} exists already: remove it, or choose another name")
