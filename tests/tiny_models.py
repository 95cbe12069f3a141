"""Real models in a few hundred kilobytes, with random weights: llama.cpp loads and runs them.

What they compute is computed again in numpy, straight from the papers' formulas, for comparison.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]

WIDTH, LAYERS, HEADS, INNER, CONTEXT = 64, 2, 4, 128, 256
HEAD = WIDTH // HEADS
EPSILON = 1e-5
LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass
class TinyModel:
    """A model on disk and its weights.

    Attributes:
        path: the GGUF file.
        tensors: by name; matrices have the shape [out, in].
    """

    path: Path
    tensors: dict[str, Array] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Array:
        return self.tensors[name]

    def linear(self, x: Array, name: str) -> Array:
        y: Array = x @ self[f"{name}.weight"].T
        bias = self.tensors.get(f"{name}.bias")
        return y if bias is None else y + bias


def tiny_bert(path: Path, pooling: gguf.PoolingType | None, *, labels: int = 0) -> TinyModel:
    """An encoder with WordPiece tokens: letters, alone or inside a word.

    Args:
        path: file to write.
        pooling: what the file says; None says nothing.
        labels: outputs of a classification head; 0 for none.
    """
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *("\u2581" + c for c in LETTERS), *LETTERS]
    random = np.random.default_rng(1)
    t: dict[str, Array] = {
        "token_embd.weight": _matrix(random, len(tokens), WIDTH),
        "token_types.weight": _matrix(random, 2, WIDTH),
        "position_embd.weight": _matrix(random, CONTEXT, WIDTH),
    }
    _norm(t, random, "token_embd_norm")
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            _linear(t, random, block + name, WIDTH, WIDTH)
        _linear(t, random, block + "ffn_up", INNER, WIDTH)
        _linear(t, random, block + "ffn_down", WIDTH, INNER)
        _norm(t, random, block + "attn_output_norm")
        _norm(t, random, block + "layer_output_norm")
    if labels:
        _linear(t, random, "cls", WIDTH, WIDTH)
        _linear(t, random, "cls.output", labels, WIDTH)
    writer = gguf.GGUFWriter(path, "bert")
    _sizes(writer, len(tokens))
    writer.add_layer_norm_eps(EPSILON)
    writer.add_causal_attention(False)
    if labels:
        writer.add_classifier_output_labels([f"label{i}" for i in range(labels)])
    if pooling is not None:
        writer.add_pooling_type(pooling)
    writer.add_tokenizer_model("bert")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL] * 4 + [gguf.TokenType.NORMAL] * 2 * len(LETTERS))
    writer.add_token_type_count(2)
    writer.add_pad_token_id(0)
    writer.add_unk_token_id(1)
    writer.add_bos_token_id(2)
    writer.add_sep_token_id(3)
    return _write(writer, path, t)


def tiny_llama(
    path: Path,
    pooling: gguf.PoolingType | None = None,
    *,
    further: Mapping[str, gguf.TokenType] | None = None,
    title: str | None = None,
    splitting: str | None = None,
) -> TinyModel:
    """A decoder with a token for each byte and letter.

    Args:
        path: file to write.
        pooling: what the file says, if anything.
        further: tokens beside these, and of which type they are.
        title: of the model; llama.cpp goes by some.
        splitting: how text is split before it is tokenized; llama.cpp goes by some here, too.
    """
    writer = gguf.GGUFWriter(path, "llama")
    tokens = write_vocabulary(writer, further or {})
    random = np.random.default_rng(2)
    t: dict[str, Array] = {"token_embd.weight": _matrix(random, tokens, WIDTH)}
    t["output.weight"] = _matrix(random, tokens, WIDTH)
    t["output_norm.weight"] = _around_one(random)
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        for name, out, into in (
            ("attn_q", WIDTH, WIDTH),
            ("attn_k", WIDTH // 2, WIDTH),
            ("attn_v", WIDTH // 2, WIDTH),
            ("attn_output", WIDTH, WIDTH),
            ("ffn_gate", INNER, WIDTH),
            ("ffn_up", INNER, WIDTH),
            ("ffn_down", WIDTH, INNER),
        ):
            t[f"{block}{name}.weight"] = _matrix(random, out, into)
        t[f"{block}attn_norm.weight"] = _around_one(random)
        t[f"{block}ffn_norm.weight"] = _around_one(random)
    _sizes(writer, tokens)
    writer.add_head_count_kv(HEADS // 2)
    writer.add_layer_norm_rms_eps(EPSILON)
    writer.add_rope_dimension_count(HEAD)
    if pooling is not None:
        writer.add_pooling_type(pooling)
    if title is not None:
        writer.add_name(title)
    if splitting is not None:
        writer.add_tokenizer_pre(splitting)
    return _write(writer, path, t)


def write_vocabulary(writer: gguf.GGUFWriter, further: Mapping[str, gguf.TokenType] | None = None) -> int:
    """Write the tokenizer of `tiny_llama` into a header; returns the number of its tokens."""
    further = further or {}
    specials, byte_tokens = ["<unk>", "<s>", "</s>"], [f"<0x{i:02X}>" for i in range(256)]
    tokens = [*specials, *byte_tokens, "\u2581", *LETTERS, *further]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(i) for i in range(len(tokens))])
    kinds = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL]
    kinds += [gguf.TokenType.BYTE] * 256
    kinds += [gguf.TokenType.NORMAL] * (len(tokens) - len(kinds) - len(further))
    writer.add_token_types([*kinds, *further.values()])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    return len(tokens)


def bert_states(model: TinyModel, tokens: list[int]) -> Array:
    """The last hidden states, shape [tokens, WIDTH] (Devlin et al., 2018)."""
    x = model["token_embd.weight"][tokens] + model["token_types.weight"][0]
    x = _layer_norm(model, x + model["position_embd.weight"][: len(tokens)], "token_embd_norm")
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        q, k, v = (model.linear(x, block + name) for name in ("attn_q", "attn_k", "attn_v"))
        attended = model.linear(_attention(q, k, v, HEADS, causal=False), block + "attn_output")
        x = _layer_norm(model, x + attended, block + "attn_output_norm")
        inner = _gelu(model.linear(x, block + "ffn_up"))
        x = _layer_norm(model, x + model.linear(inner, block + "ffn_down"), block + "layer_output_norm")
    return x


def bert_score(model: TinyModel, tokens: list[int]) -> Array:
    """What the classification head makes of the first token's state, shape [labels]."""
    hidden = np.tanh(model.linear(bert_states(model, tokens)[:1], "cls"))
    scores: Array = model.linear(hidden, "cls.output")[0]
    return scores


def llama_states(model: TinyModel, tokens: list[int]) -> Array:
    """The normed last hidden states, shape [tokens, WIDTH] (Touvron et al., 2023)."""
    x = model["token_embd.weight"][tokens]
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        h = _rms_norm(x, model[f"{block}attn_norm.weight"])
        q, k, v = (model.linear(h, block + name) for name in ("attn_q", "attn_k", "attn_v"))
        attended = _attention(_rotate(q), _rotate(k), v, HEADS, causal=True)
        x = x + model.linear(attended, block + "attn_output")
        h = _rms_norm(x, model[f"{block}ffn_norm.weight"])
        gate = model.linear(h, block + "ffn_gate")
        x = x + model.linear(
            gate / (1 + np.exp(-gate)) * model.linear(h, block + "ffn_up"), block + "ffn_down"
        )
    return _rms_norm(x, model["output_norm.weight"])


def unit(vector: Array) -> Array:
    """The vector at length 1."""
    scaled: Array = vector / np.linalg.norm(vector)
    return scaled


def _matrix(random: np.random.Generator, out: int, into: int) -> Array:
    # Large enough that attention and the activations are far from linear.
    return random.normal(0, 2 / np.sqrt(into), (out, into)).astype(np.float32)


def _around_one(random: np.random.Generator) -> Array:
    return random.normal(1, 0.1, WIDTH).astype(np.float32)


def _linear(tensors: dict[str, Array], random: np.random.Generator, name: str, out: int, into: int) -> None:
    tensors[f"{name}.weight"] = _matrix(random, out, into)
    tensors[f"{name}.bias"] = random.normal(0, 0.1, out).astype(np.float32)


def _norm(tensors: dict[str, Array], random: np.random.Generator, name: str) -> None:
    tensors[f"{name}.weight"] = _around_one(random)
    tensors[f"{name}.bias"] = random.normal(0, 0.1, WIDTH).astype(np.float32)


def _sizes(writer: gguf.GGUFWriter, tokens: int) -> None:
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_block_count(LAYERS)
    writer.add_head_count(HEADS)
    writer.add_vocab_size(tokens)
    writer.add_file_type(0)


def _write(writer: gguf.GGUFWriter, path: Path, tensors: dict[str, Array]) -> TinyModel:
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return TinyModel(path, tensors)


def _attention(q: Array, k: Array, v: Array, heads: int, *, causal: bool) -> Array:
    """Attention of `heads` heads over one sequence; with fewer keys, heads share them in groups."""
    n = len(q)
    groups = q.shape[1] // k.shape[1]
    queries = q.reshape(n, heads, HEAD)
    keys = k.reshape(n, -1, HEAD).repeat(groups, axis=1)
    values = v.reshape(n, -1, HEAD).repeat(groups, axis=1)
    scores = np.einsum("ihd,jhd->hij", queries, keys) / np.sqrt(HEAD)
    if causal:
        scores = np.where(np.tril(np.ones((n, n), bool)), scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    mixed: Array = np.einsum("hij,jhd->ihd", weights, values).reshape(n, -1)
    return mixed


def _rotate(x: Array) -> Array:
    """Rotary position embedding of neighbouring pairs (Su et al., 2021)."""
    n = len(x)
    pairs = x.reshape(n, -1, HEAD // 2, 2)
    angles = np.arange(n)[:, None] * 10000.0 ** (-np.arange(0, HEAD, 2) / HEAD)
    turned = (pairs[..., 0] + 1j * pairs[..., 1]) * np.exp(1j * angles)[:, None, :]
    rotated: Array = np.stack([turned.real, turned.imag], -1).reshape(n, -1)
    return rotated


def _layer_norm(model: TinyModel, x: Array, name: str) -> Array:
    normed = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + EPSILON)
    scaled: Array = normed * model[f"{name}.weight"] + model[f"{name}.bias"]
    return scaled


def _rms_norm(x: Array, weight: Array) -> Array:
    normed: Array = x / np.sqrt((x**2).mean(-1, keepdims=True) + EPSILON) * weight
    return normed


def _gelu(x: Array) -> Array:
    activated: Array = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return activated
