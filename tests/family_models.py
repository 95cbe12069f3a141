"""Tiny models with random weights of all kinds of architectures, in files that llama.cpp loads and runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.random_models import write_random
from tests.models.random_models import COMMON, EXPERTS
from tests.tiny_models import write_vocabulary

# A window shorter than the tests' texts, and one small layer of each kind is enough.
SMALL: dict[str, Any] = {
    "embedding_length": 64,
    "features_length": 64,
    "feed_forward_length": 96,
    "block_count": 2,
    "context_length": 2048,
    "attention.sliding_window": 48,
    "attention.key_length": 32,
    "attention.value_length": 32,
    "ssm.inner_size": 128,
    "ssm.state_size": 16,
    "ssm.group_count": 1,
    "wkv.head_size": 32,
    "time_mix_extra_dim": 16,
    "time_decay_extra_dim": 16,
    "attention.decay_lora_rank": 16,
    "attention.iclr_lora_rank": 16,
    "attention.value_residual_mix_lora_rank": 16,
    "attention.gate_lora_rank": 16,
}
HALF = {"attention.head_count_kv": [2, 0]}
FEW_EXPERTS = EXPERTS | {"expert_feed_forward_length": 64, "expert_shared_feed_forward_length": 64}
# Name of the case: architecture and what is its own.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "window": ("gemma3", {"attention.sliding_window_pattern": 2}),
    "window and sinks": ("gpt-oss", FEW_EXPERTS),
    "recurrent": ("mamba", {}),
    "recurrent with groups": ("mamba2", {"ssm.time_step_rank": 4}),
    "recurrent with time mixing": ("rwkv6", {}),
    "hybrid with short convolutions": ("lfm2", HALF | {"attention.sliding_window": 0}),
    "hybrid with a window": ("lfm2", HALF),
    "hybrid with selective states": ("granitehybrid", HALF | {"ssm.time_step_rank": 4}),
    "hybrid in parallel": ("falcon-h1", {"ssm.time_step_rank": 4}),
    "hybrid with a delta rule": (
        "qwen3next",
        FEW_EXPERTS | {"ssm.inner_size": 32, "ssm.state_size": 16, "ssm.time_step_rank": 2},
    ),
}


def write_family(path: Path, name: str, *, seed: int = 3) -> Path:
    """A model of one of `FAMILIES`."""
    architecture, changes = FAMILIES[name]
    return write_random(path, architecture, COMMON | SMALL | changes, seed=seed, vocabulary=write_vocabulary)
