"""Random models of all families of architectures that llama.cpp knows, from nothing but a header.

llama.cpp makes the tensors that a header asks for, so that contexts of it can be made and what they allocate
read in its log. That happens in a process of its own, since llama.cpp ends the process on headers that it
doesn't like.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gguf

from benchmarks.random_models import make_model
from predictor.models.cache_size import CacheShape

WIDTH, HEADS, LAYERS, TOKENS = 256, 2, 4, 128
BATCH = 64
SHAPES = [
    CacheShape(1000, batch_tokens=BATCH),
    CacheShape(1000, sequences=5, batch_tokens=BATCH, full_window=True),
    CacheShape(1000, sequences=5, batch_tokens=BATCH),
    CacheShape(5000, sequences=5, slots=True, batch_tokens=BATCH, rollback=2),
    CacheShape(5000, sequences=5, slots=True, batch_tokens=BATCH, full_window=True),
    CacheShape(1024, sequences=2, number_type="q8_0", batch_tokens=BATCH),
    CacheShape(1024, sequences=2, flash_attention="off", batch_tokens=BATCH),
]

# What most architectures ask for; whoever doesn't leaves it.
COMMON: dict[str, Any] = {
    "vocab_size": TOKENS,
    "context_length": 4096,
    "embedding_length": WIDTH,
    "features_length": WIDTH,
    "block_count": LAYERS,
    "leading_dense_block_count": 1,
    "feed_forward_length": 384,
    "use_parallel_residual": False,
    "logit_scale": 1.0,
    "time_mix_extra_dim": 64,
    "time_decay_extra_dim": 128,
    "full_attention_interval": 2,
    "attention.head_count": HEADS,
    "attention.head_count_kv": HEADS,
    "attention.max_alibi_bias": 8.0,
    "attention.clamp_kqv": 1.0,
    "attention.layer_norm_epsilon": 1e-5,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "attention.group_norm_epsilon": 1e-5,
    "attention.group_norm_groups": 8,
    "attention.q_lora_rank": 512,
    "attention.kv_lora_rank": 512,
    "attention.relative_buckets_count": 8,
    "attention.sliding_window": 32,
    "attention.sliding_window_pattern": 2,
    "attention.indexer.head_count": 64,
    "attention.indexer.key_length": 128,
    "attention.indexer.top_k": 131072,
    "attention.indexer.block_size": 4,
    "attention.indexer.local_blocks": 1,
    "rope.dimension_sections": [32, 32, 32, 32],
    "ssm.inner_size": 2 * WIDTH,
    "ssm.conv_kernel": 4,
    "ssm.state_size": 128,
    "ssm.time_step_rank": HEADS,
    "ssm.group_count": 2,
    "kda.head_dim": 128,
    "wkv.head_size": WIDTH // HEADS,
    "shortconv.l_cache": 3,
    "residual_scale": 3.5,
    "posnet.embedding_length": WIDTH,
    "posnet.block_count": LAYERS,
    "convnext.embedding_length": WIDTH,
    "convnext.block_count": LAYERS,
    "token_shift_count": 2,
    "attention.decay_lora_rank": 64,
    "attention.iclr_lora_rank": 64,
    "attention.value_residual_mix_lora_rank": 64,
    "attention.gate_lora_rank": 64,
}
EXPERTS = {
    "expert_feed_forward_length": 384,
    "expert_shared_feed_forward_length": 192,
    "expert_latent_size": 384,
    "interleave_moe_layer_step": 2,
    "expert_count": 2,
    "expert_used_count": 2,
    "expert_shared_count": 1,
    "expert_gating_func": 2,
    "expert_group_scale": 1.0,
    "experts_per_group": 1,
}
MLA = {
    "embedding_length": 128,
    "attention.head_count": 1,
    "attention.head_count_kv": 1,
    "feed_forward_length": 192,
    "attention.key_length": 576,
    "attention.value_length": 512,
    "attention.key_length_mla": 192,
    "attention.value_length_mla": 128,
    "rope.dimension_count": 64,
}
EVERY_SECOND = {"attention.head_count_kv": [HEADS, 0, HEADS, 0]}
SECOND_SLIDES = {"attention.sliding_window_pattern": [0, 1, 0, 1]}

# Name of the case: architecture and what is its own.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("llama", {}),
    "grouped heads": ("qwen3", {"attention.head_count": 4, "attention.head_count_kv": 1}),
    "heads of their own size": ("qwen3", {"attention.key_length": 96, "attention.value_length": 96}),
    "heads by layer": ("openelm", {"attention.head_count_kv": [2, 1, 2, 1]}),
    "experts": ("qwen3moe", EXPERTS),
    "experts in the first models with them": ("llama", EXPERTS),
    "a window, the layers in turn": ("gemma2", {}),
    "a window, most layers": ("gemma3", {"block_count": 6, "attention.sliding_window_pattern": 6}),
    "a window, named layers": ("mimo2", EXPERTS | SECOND_SLIDES),
    "a window with heads of its own": (
        "gemma4",
        {
            "block_count": 5,
            "embedding_length_per_layer_input": 64,
            "attention.shared_kv_layers": 0,
            "attention.key_length": 128,
            "attention.value_length": 128,
            "attention.key_length_swa": 64,
            "attention.value_length_swa": 64,
            "rope.freq_base_swa": 10000.0,
            "attention.sliding_window_pattern": [1, 1, 1, 1, 0],
        },
    ),
    "a window and experts": ("gpt-oss", EXPERTS),
    "a window that the architecture ignores": ("qwen2", {}),
    "shared layers": (
        "gemma4",
        {
            "block_count": 10,
            "embedding_length_per_layer_input": 64,
            "attention.shared_kv_layers": 5,
            "attention.key_length_swa": 64,
            "attention.value_length_swa": 64,
            "rope.freq_base_swa": 10000.0,
            "attention.sliding_window_pattern": [1, 1, 1, 1, 0] * 2,
        },
    ),
    "shared layers, a fixed number": (
        "gemma3n",
        {"embedding_length": 64, "attention.head_count": 1, "attention.head_count_kv": 1, "block_count": 30},
    ),
    "recurrent": ("mamba", {}),
    "recurrent with groups": ("mamba2", {}),
    "recurrent with time mixing": ("rwkv6", {}),
    "recurrent with a state that decays": ("rwkv7", {}),
    "hybrid by heads": ("jamba", EVERY_SECOND | EXPERTS),
    "hybrid with groups": ("granitehybrid", EVERY_SECOND),
    "hybrid with short convolutions": ("lfm2", EVERY_SECOND),
    "hybrid with layers of a third kind": (
        "nemotron_h",
        {"attention.head_count_kv": [0, HEADS, 0, 0], "feed_forward_length": [0, 0, 384, 384]},
    ),
    "hybrid by interval": ("qwen3next", EXPERTS | {"ssm.inner_size": 256}),
    "hybrid and dense": ("qwen35", {"ssm.inner_size": 256}),
    "hybrid in parallel": ("falcon-h1", {}),
    "latent attention": ("deepseek2", MLA | EXPERTS),
    "latent attention, unpacked": (
        "deepseek2",
        EXPERTS | {"attention.key_length": 192, "attention.value_length": 128, "rope.dimension_count": 64},
    ),
    "latent attention with an index": ("deepseek32", MLA | EXPERTS),
    "layers that guess further tokens": ("glm4moe", EXPERTS | {"nextn_predict_layers": 1}),
    "hybrid and layers that guess": ("qwen35", {"ssm.inner_size": 256, "nextn_predict_layers": 1}),
    "latent and layers that guess": ("deepseek2", MLA | EXPERTS | {"nextn_predict_layers": 1}),
    "encoder": ("bert", {"attention.causal": False}),
    "encoder with a window": ("modern-bert", {"attention.causal": False}),
    "encoder with experts": ("nomic-bert-moe", EXPERTS | {"attention.causal": False}),
    "encoder made of a decoder": ("gemma-embedding", {"attention.causal": False}),
}


def write_header(path: Path, architecture: str, changes: dict[str, Any]) -> Path:
    """A GGUF file with metadata and no tensors."""
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in (COMMON | changes).items():
        name = f"{architecture}.{key}"
        match value:
            case bool():
                writer.add_bool(name, value)
            case int():
                writer.add_uint32(name, value)
            case float():
                writer.add_float32(name, value)
            case list():
                writer.add_array(name, value)
    writer.add_token_type_count(2)
    writer.add_tokenizer_model("test")
    writer.add_token_list([f"tok_{number}" for number in range(TOKENS)])
    writer.add_token_scores([0.0] * TOKENS)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def allocated(headers: Sequence[Path], shapes: Sequence[CacheShape]) -> list[list[int]]:
    """Bytes that llama.cpp allocates for each shape, for each header.

    Raises:
        ValueError: it can't make one of the models; with what it said.
    """
    asked = {"headers": list(map(str, headers)), "shapes": list(map(asdict, shapes))}
    done = subprocess.run(
        [sys.executable, "-m", __name__],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    if done.returncode:
        raise ValueError(done.stderr[-2000:])
    sizes: list[list[int]] = json.loads(done.stdout.splitlines()[-1])
    return sizes


def _load(path: Path) -> Any:
    from predictor.engine.llama.model import Model

    model: Any = Model.__new__(Model)
    model.handle = make_model(path)
    model.n_vocab = TOKENS
    return model


def _sizes(path: str, shapes: list[CacheShape], said: list[str]) -> list[int]:
    from predictor.engine.llama.context import Context, ContextParams

    print(path, file=sys.stderr)
    model = _load(Path(path))
    sizes = []
    for shape in shapes:
        said.clear()
        params = ContextParams(
            context_tokens=shape.tokens,
            batch_tokens=shape.batch_tokens,
            sequences=shape.sequences,
            threads=1,
            batch_threads=1,
            flash_attention=shape.flash_attention,
            cache_type=shape.number_type,
            shared_cells=not shape.slots,
            full_window=shape.full_window,
            rollback=shape.rollback,
        )
        Context(model, params).close()
        found = re.findall(r"(?:KV|RS) buffer size = +([0-9.]+) MiB", "\n".join(said))
        sizes.append(round(sum(map(float, found)) * 2**20))
    model.close()
    return sizes


def _main() -> None:
    from predictor.engine.llama.backend import log_readers

    asked = json.load(sys.stdin)
    said: list[str] = []
    log_readers.append(said.append)
    shapes = [CacheShape(**shape) for shape in asked["shapes"]]
    print(json.dumps([_sizes(path, shapes, said) for path in asked["headers"]]))


if __name__ == "__main__":
    _main()
