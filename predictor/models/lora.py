"""LoRA adapters as the command line names them, checked before anything is loaded."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from predictor.errors import StartupError
from predictor.models.gguf import GgufHeader, read_header

FORM = "NAME=FILE or NAME=FILE:SCALE"
_NAME = re.compile(r"[^/\s]+")


@dataclass(frozen=True, slots=True)
class LoraAdapter:
    """An adapter to serve.

    Attributes:
        name: what requests call it, in the place of the model's name.
        path: its GGUF file.
        scale: how strongly it is applied; 1 as it was trained.
    """

    name: str
    path: Path
    scale: float = 1.0


def parse_adapters(value: Any) -> Any:
    """The adapters of an option's value: texts in the form `FORM`, or one text with blanks between them.

    Raises:
        ValueError: a text has another form, or a name comes twice.
    """
    if isinstance(value, str):
        value = value.split()
    if not isinstance(value, (list, tuple)):
        return value
    adapters = [_parse(item) if isinstance(item, str) else item for item in value]
    names = [adapter.name for adapter in adapters if isinstance(adapter, LoraAdapter)]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two adapters are called {name!r}: give each a name of its own")
    return tuple(adapters)


def check_adapter(adapter: LoraAdapter, model: GgufHeader) -> None:
    """Make sure that a file is a LoRA adapter for a model, as far as its header tells.

    Raises:
        StartupError: it isn't, or can't be read.
    """
    header = read_header(adapter.path)
    kind = (header.metadata.get("general.type"), header.metadata.get("adapter.type"))
    if kind != ("adapter", "lora"):
        raise StartupError(
            f"{adapter.path}, given as the adapter {adapter.name!r}, is not a LoRA adapter in GGUF; "
            "llama.cpp's convert_lora_to_gguf.py makes one"
        )
    if header.architecture != model.architecture:
        raise StartupError(
            f"the adapter {adapter.path} is for the architecture {header.architecture!r}, but {model.path} "
            f"is {model.architecture!r}: give one that was trained on this model"
        )
    shapes = {tensor.name: tensor.shape for tensor in model.tensors}
    for tensor in header.tensors:
        name = tensor.name.removesuffix(".lora_a").removesuffix(".lora_b")
        if model.split_count == 1 and name != tensor.name and name not in shapes:
            raise StartupError(
                f"the adapter {adapter.path} changes {name}, which {model.path} doesn't have: give one that "
                "was trained on this model"
            )


def check_names(model_names: Sequence[str], adapters: Sequence[LoraAdapter]) -> None:
    """Make sure that no adapter takes a name of the model's.

    Raises:
        StartupError: one does.
    """
    for adapter in adapters:
        if adapter.name in model_names:
            raise StartupError(
                f"an adapter has the model's own name {adapter.name!r}: choose another with --lora"
            )


def _parse(text: str) -> LoraAdapter:
    name, separator, file = text.partition("=")
    if not separator or not file or not _NAME.fullmatch(name):
        raise ValueError(f"{text!r} is not of the form {FORM}, where NAME has no blank and no slash")
    path, separator, ending = file.rpartition(":")
    try:
        scale = float(ending) if separator and path else None
    except ValueError:
        scale = None
    if scale is None:
        return LoraAdapter(name, Path(file))
    if not math.isfinite(scale):
        raise ValueError(f"{text!r}: the scale must be a finite number")
    return LoraAdapter(name, Path(path), scale)
