"""Models with random weights of any architecture that llama.cpp knows: for speed the logits don't matter.

Which tensors an architecture has, llama.cpp says itself: it makes them from a header alone. That happens in a
process of its own, since llama.cpp ends the process on headers that it doesn't like.

python -m benchmarks.random_models FOLDER writes those for `python -m benchmarks --model`.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

Kind = gguf.GGMLQuantizationType

GEMMA_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% set role = 'model' if message['role'] == 'assistant' else 'user' %}"
    "<start_of_turn>{{ role }}\n{{ message['content'] }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
# Matrices that llama.cpp computes with in full precision only.
SMALL = ("conv1d.weight", "ssm_a", "ssm_d", "norm.weight")
# Gemma 3's smallest: most of its layers see a window of 512 tokens.
WINDOW_270M: tuple[str, dict[str, Any]] = (
    "gemma3",
    {
        "context_length": 32768,
        "embedding_length": 640,
        "block_count": 18,
        "feed_forward_length": 2048,
        "attention.head_count": 4,
        "attention.head_count_kv": 1,
        "attention.key_length": 256,
        "attention.value_length": 256,
        "attention.sliding_window": 512,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "rope.freq_base": 1e6,
    },
)
# Granite 4's smallest with recurrent layers: 28 of Mamba 2, 4 with attention.
HYBRID_350M: tuple[str, dict[str, Any]] = (
    "granitehybrid",
    {
        "context_length": 32768,
        "embedding_length": 768,
        "block_count": 32,
        "feed_forward_length": 2048,
        "attention.head_count": 12,
        "attention.head_count_kv": [4 if layer in (10, 13, 17, 27) else 0 for layer in range(32)],
        "attention.layer_norm_rms_epsilon": 1e-5,
        "ssm.conv_kernel": 4,
        "ssm.state_size": 128,
        "ssm.group_count": 1,
        "ssm.inner_size": 1536,
        "ssm.time_step_rank": 48,
        "rope.dimension_count": 64,
    },
)


def benchmark_model(folder: Path, shape: tuple[str, Mapping[str, Any]], tokens: int) -> Path:
    """A model of a real one's shape in Q8_0, written where it isn't yet.

    Args:
        folder: for the file.
        shape: architecture and header.
        tokens: of the vocabulary, about.
    """
    architecture, metadata = shape
    path = folder / f"random-{architecture}-{metadata['embedding_length']}.Q8_0.gguf"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        kinds = {"weight": Kind.Q8_0}
        write_random(part, architecture, metadata, seed=1, kinds=kinds, vocabulary=word_vocabulary(tokens))
        part.replace(path)
    return path


def word_vocabulary(tokens: int) -> Callable[[gguf.GGUFWriter], int]:
    """Words of up to four letters, so that any text of them becomes the same tokens again."""

    def write(writer: gguf.GGUFWriter) -> int:
        specials = ["<unk>", "<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"]
        names = [*specials, *(f"<0x{i:02X}>" for i in range(256)), "\u2581"]
        letters = "etaoinshrdlcumwfgypbvk"
        names += list("abcdefghijklmnopqrstuvwxyz")
        for length in range(1, 5):
            for word in product(letters, repeat=length):
                if len(names) < tokens:
                    names.append("\u2581" + "".join(word))
        kinds = [gguf.TokenType.UNKNOWN] + [gguf.TokenType.CONTROL] * 4 + [gguf.TokenType.BYTE] * 256
        writer.add_tokenizer_model("llama")
        writer.add_token_list(names)
        writer.add_token_scores([-float(i) for i in range(len(names))])
        writer.add_token_types([*kinds, *[gguf.TokenType.NORMAL] * (len(names) - len(kinds))])
        writer.add_unk_token_id(0)
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_eot_token_id(4)
        writer.add_add_bos_token(True)
        writer.add_chat_template(GEMMA_TEMPLATE)
        return len(names)

    return write


def write_random(
    path: Path,
    architecture: str,
    metadata: Mapping[str, Any],
    *,
    seed: int,
    vocabulary: Callable[[gguf.GGUFWriter], int],
    kinds: Mapping[str, Kind] | None = None,
) -> Path:
    """A model of any architecture.

    Args:
        path: file to write.
        architecture: llama.cpp's name of it.
        metadata: what its header says, by keys without the architecture.
        seed: of the weights.
        vocabulary: writes the tokenizer's part of the header, and returns the number of tokens.
        kinds: number formats of matrices by what their name ends with; F32 for all others.
    """
    _write(path, architecture, metadata, vocabulary, {}, {})
    random = np.random.default_rng(seed)
    tensors = {name: _weights(random, name, shape) for name, shape in _shapes(path).items()}
    return _write(path, architecture, metadata, vocabulary, tensors, kinds or {})


def _weights(random: np.random.Generator, name: str, shape: Sequence[int]) -> npt.NDArray[np.float32]:
    if name.endswith("norm.weight"):
        values = random.normal(1, 0.1, shape)
    elif name.startswith("token_embd"):
        # Small, so that a token's logits come from those before it.
        values = random.normal(0, 0.02, shape)
    elif name.endswith("ssm_a"):
        values = -random.uniform(0.01, 0.05, shape)
    elif len(shape) > 1:
        values = random.normal(0, 2 / np.sqrt(shape[-1]), shape)
    else:
        values = random.normal(0, 0.1, shape)
    return values.astype(np.float32)


def _write(
    path: Path,
    architecture: str,
    metadata: Mapping[str, Any],
    vocabulary: Callable[[gguf.GGUFWriter], int],
    tensors: Mapping[str, npt.NDArray[np.float32]],
    kinds: Mapping[str, Kind],
) -> Path:
    writer = gguf.GGUFWriter(path, architecture)
    add: dict[type, Callable[[str, Any], None]] = {
        bool: writer.add_bool,
        int: writer.add_uint32,
        float: writer.add_float32,
        list: writer.add_array,
    }
    count = vocabulary(writer)
    for key, value in {**metadata, "vocab_size": count}.items():
        add[type(value)](f"{architecture}.{key}", value)
    for name, tensor in tensors.items():
        kind = next((kind for end, kind in kinds.items() if name.endswith(end)), None)
        if kind is None or tensor.ndim == 1 or tensor.shape[-1] % 32 or name.endswith(SMALL):
            writer.add_tensor(name, tensor)
        else:
            writer.add_tensor(name, gguf.quantize(tensor, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _shapes(header: Path) -> dict[str, list[int]]:
    """Shapes of the tensors that a header asks for, by their names.

    Raises:
        ValueError: llama.cpp can't make such a model; with what it said.
    """
    done = subprocess.run(
        [sys.executable, "-m", __name__, "shapes", str(header)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=Path(__file__).parents[1],
    )
    if done.returncode:
        raise ValueError(done.stderr[-2000:])
    shapes: dict[str, list[int]] = json.loads(done.stdout.splitlines()[-1])
    return shapes


def make_model(path: Path, fill: Callable[[Any, Any], None] = lambda _tensor, _data: None) -> Any:
    """llama.cpp's model of a header; `fill` is called with each tensor. Ends the process where it can't."""
    import llama_cpp.llama_cpp as lib

    from predictor.engine.llama.backend import start_backend

    class Params(ctypes.Structure):
        _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p))

    start_backend()
    base = ctypes.CDLL(str(next(Path(lib._lib._name).parent.glob("libggml-base.so*"))))
    base.gguf_init_from_file.restype = ctypes.c_void_p
    base.gguf_init_from_file.argtypes = [ctypes.c_char_p, Params]
    metadata = base.gguf_init_from_file(str(path).encode(), Params(no_alloc=True, ctx=None))
    options = lib.llama_model_default_params()
    options.n_gpu_layers = 0
    options.load_mtp = True
    handle = lib.llama_model_init_from_user(metadata, lib.llama_model_set_tensor_data_t(fill), None, options)
    if not handle:
        sys.exit("llama.cpp can't make the model")
    return handle


class _Tensor(ctypes.Structure):
    """The beginning of `struct ggml_tensor`."""

    _fields_ = (("type", ctypes.c_int), ("buffer", ctypes.c_void_p), ("extents", ctypes.c_int64 * 4))


def _print_shapes(path: str) -> None:
    import llama_cpp.llama_cpp as lib

    base = next(Path(lib._lib._name).parent.glob("libggml-base.so*"))
    name_of = ctypes.CDLL(str(base)).ggml_get_name
    name_of.restype, name_of.argtypes = ctypes.c_char_p, [ctypes.c_void_p]
    shapes: dict[str, list[int]] = {}

    def keep(tensor: Any, _data: Any) -> None:
        extents = list(_Tensor.from_address(tensor).extents)
        while len(extents) > 1 and extents[-1] == 1:
            extents.pop()
        shapes[name_of(tensor).decode()] = extents[::-1]

    make_model(Path(path), keep)
    print(json.dumps(shapes))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["shapes", header]:
            _print_shapes(header)
        case [folder]:
            for shape, tokens in ((WINDOW_270M, 2**18), (HYBRID_350M, 100_352)):
                print(benchmark_model(Path(folder), shape, tokens))
        case _:
            sys.exit("python -m benchmarks.random_models FOLDER: write the models, minutes each")
