"""LoRA adapters with random weights for the demo model, large enough to change what it says."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

from predictor.models.gguf import read_header

RANK = 4
ADAPTED = ("attn_q.weight", "attn_v.weight", "ffn_down.weight")


def write_adapter(
    path: Path,
    model: Path,
    seed: int,
    *,
    strength: float = 1.0,
    architecture: str | None = None,
    kind: str = "adapter",
    extra_width: int = 0,
    layers: int = 0,
) -> Path:
    """Write an adapter.

    Args:
        path: file to write.
        model: the model it is for.
        seed: another one gives another adapter.
        strength: how large its output is, relative to random weights of the model's size.
        architecture: what the file says it is for; None says the model's.
        kind: what the file says it is.
        extra_width: makes the matrices too wide for the model.
        layers: changes so many layers, whether the model has them or not; 0 for all it has.
    """
    header = read_header(model)
    random = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, architecture or header.architecture)
    writer.add_type(kind)
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", RANK)
    shapes = {tensor.name: tensor.shape for tensor in header.tensors}
    for layer in range(layers or header.layers):
        for part in ADAPTED:
            width, height = shapes[f"blk.0.{part}"]
            width += extra_width
            down = random.normal(0, width**-0.5, (RANK, width)).astype(np.float32)
            up = random.normal(0, strength * RANK**-0.5, (height, RANK)).astype(np.float32)
            writer.add_tensor(f"blk.{layer}.{part}.lora_a", down)
            writer.add_tensor(f"blk.{layer}.{part}.lora_b", up)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
