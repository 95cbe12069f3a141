"""What llama.cpp allocates for the state of sequences, told from a model's header.

The rules are those of llama.cpp's `llama_model::create_memory`, `llama_kv_cache`, `llama_memory_recurrent`
and `llama_hparams`. `tests/models/test_cache_size.py` holds them against contexts of random models.
"""

from __future__ import annotations

from dataclasses import dataclass

from predictor.errors import ModelLoadError
from predictor.models.gguf import GgufHeader
from predictor.models.gguf_types import TENSOR_TYPES

KV_TYPES = {"f16": TENSOR_TYPES[1], "q8_0": TENSOR_TYPES[8]}
MAX_LAYERS = 4096
# llama.cpp rounds a sequence's cells up to a multiple.
CELL_BLOCK = 256
RECURRENT_NUMBER_BYTES = 4

# They see all of a text at once, so that there is nothing to keep.
ENCODERS = {
    *("bert", "modern-bert", "nomic-bert", "nomic-bert-moe", "neo-bert", "jina-bert-v2", "jina-bert-v3"),
    *("eurobert", "gemma-embedding", "wavtokenizer-dec", "dream", "llada", "llada-moe", "rnd1"),
}
RECURRENT = {"mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"}
HYBRID_WITH_DELTA = {"kimi-linear", "kimi-k3", "bailingmoe3", "glm5-next"}
# Recurrent where a layer has no heads for keys.
HYBRID_BY_HEADS = {
    *("jamba", "plamo2", "granitehybrid", "lfm2", "lfm2moe", "nemotron_h", "nemotron_h_moe"),
    *HYBRID_WITH_DELTA,
}
# All layers but every n-th are recurrent: the default for n.
HYBRID_BY_INTERVAL = {"qwen3next": 4, "qwen35": 4, "qwen35moe": 4, "qwen4exp": 4, "minimax-01": 8}
# Whose states are of one group, whatever the file says.
UNGROUPED = {"mamba", "jamba", "plamo2"}
# Of whose recurrent layers llama.cpp can keep earlier states.
TAKING_BACK = {
    *("kimi-k3", "qwen35", "qwen35moe", "qwen4exp", "glm5-next", "nemotron_h", "nemotron_h_moe"),
    *("lfm2", "lfm2moe", "bailingmoe3"),
}
# Each layer is both.
HYBRID_IN_PARALLEL = {"falcon-h1"}
# A small cache of keys on top, by which layers choose what to look at.
INDEXED = {"deepseek32", "glm-dsa", "hy_v4", "dots3note", "qwen4exp", "glm5-next", "minimax-m3"}
# Some of whose layers see a window only, all but every n-th: n, unless the file says otherwise. Of those not
# listed here or in the file all layers are counted in full.
WINDOW_INTERVALS = {
    **dict.fromkeys(("gemma2", "gpt-oss"), 2),
    **dict.fromkeys(("afmoe", "cohere2", "exaone-moe", "llama4", "mellum", "muse-glimmer", "olmo2"), 4),
    "gemma3n": 5,
    "gemma3": 6,
    "plamo3": 8,
}
# All others are named in the file, or all of attention's layers have it.
WINDOW_IN_FILE = {"gemma4", "granite-swa", "maple", "mimo2"}
WINDOW_IN_ALL = {"lfm2", "lfm2moe"}
# Tokens in the window where the file doesn't say.
WINDOW_SIZES = {"gemma2": 4096, "exaone-moe": 128, "llama4": 8192}
# Whose last layers use the cache of earlier ones, a number that isn't in the file.
LAYERS_WITH_CACHE = {"gemma3n": 20}


@dataclass(frozen=True, slots=True)
class CacheShape:
    """What a context is made for.

    Attributes:
        tokens: over all sequences.
        sequences: most that run at once.
        slots: each has an equal part of the tokens, instead of one pool for all.
        number_type: of keys and values: `f16` or `q8_0`.
        flash_attention: `off` stores values in another way than `auto` and `on`.
        batch_tokens: most in one step.
        full_window: layers that see a window of tokens keep all of them.
        rollback: tokens that can be taken back of a recurrent state.
    """

    tokens: int
    sequences: int = 1
    slots: bool = False
    number_type: str = "f16"
    flash_attention: str = "auto"
    batch_tokens: int = 512
    full_window: bool = False
    rollback: int = 0

    @property
    def cells(self) -> int:
        """Cells that llama.cpp makes of it."""
        if not self.slots:
            return _rounded_up(self.tokens)
        return self.sequences * _rounded_up(self.tokens // self.sequences)

    def window_cells(self, window: int) -> int:
        """Cells that it makes for layers that see a window of so many tokens."""
        if self.full_window:
            return self.cells
        streams = self.sequences if self.slots else 1
        seen = window * (1 if self.slots else self.sequences) + self.batch_tokens
        return streams * _rounded_up(min(self.cells // streams, seen))


def cache_bytes(header: GgufHeader, shape: CacheShape) -> int:
    """Bytes of keys, values and recurrent states; 0 where the header doesn't say enough.

    Raises:
        ModelLoadError: a value in the header is out of range or has the wrong type.
    """
    layers = _Layers(header)
    if header.architecture in ENCODERS:
        return 0
    flash_attention = shape.flash_attention != "off"
    block, block_bytes = KV_TYPES[shape.number_type]
    numbers = shape.cells * layers.numbers_per_cell(flash_attention=flash_attention, sliding=False)
    if sliding := layers.numbers_per_cell(flash_attention=flash_attention, sliding=True):
        numbers += shape.window_cells(layers.window) * sliding
    state = layers.recurrent_numbers * len(layers.recurrent) * RECURRENT_NUMBER_BYTES
    states = max(1, shape.sequences) * (1 + (shape.rollback if layers.takes_back else 0))
    return numbers * block_bytes // block + state * states


def is_recurrent(header: GgufHeader) -> bool:
    """Whether any layer has a state of fixed size, which can't be cut."""
    return bool(_Layers(header).recurrent)


class _Layers:
    """What each layer of a model keeps.

    Attributes:
        recurrent: numbers of the layers with a state of fixed size.
    """

    def __init__(self, header: GgufHeader) -> None:
        self._header = header
        if not 0 <= header.layers <= MAX_LAYERS:
            raise _unusable(header, "block_count", header.layers)
        self._count = header.layers
        # Those behind guess further tokens; nothing here uses them.
        self._trunk = self._count - min(self._count, _integer(header, "nextn_predict_layers"))
        if self._trunk == 0 or header.architecture == "granite-switch":
            self._trunk = self._count
        self._heads = _per_layer(header, "attention.head_count", self._count)
        has_own = _has(header, "attention.head_count_kv")
        self._kv_heads = (
            _per_layer(header, "attention.head_count_kv", self._count) if has_own else self._heads
        )
        self.recurrent = [layer for layer in range(self._trunk) if self._is_recurrent(layer)]

    @property
    def window(self) -> int:
        """Tokens that a layer with a window sees; 0 where no layer has one."""
        default = WINDOW_SIZES.get(self._header.architecture, 0)
        return _integer(self._header, "attention.sliding_window", default)

    @property
    def takes_back(self) -> bool:
        """Whether llama.cpp can keep earlier states of the recurrent layers."""
        return self._header.architecture in TAKING_BACK

    def numbers_per_cell(self, *, flash_attention: bool, sliding: bool) -> int:
        """Keys and values of a token, over all layers with a window or all others."""
        keys, values = self._sizes("key"), self._sizes("value")
        layers = [layer for layer in range(self._trunk) if self._has_cache(layer)]
        layers = [layer for layer in layers if self._slides(layer) == sliding]
        latent = _integer(self._header, "attention.key_length_mla") > 0
        total = sum(keys[layer] for layer in layers)
        if not latent:  # with multi-head latent attention the values are part of the keys (DeepSeek)
            widest = max(values, default=0)
            total += sum(values[layer] if flash_attention else widest for layer in layers)
        return total + self._index_numbers(layers, values=not latent)

    @property
    def recurrent_numbers(self) -> int:
        """Size of a recurrent layer's state: what a convolution sees and what is remembered."""
        name = self._header.architecture
        heads = self._heads[0] if self._heads else 0
        width = _integer(self._header, "embedding_length")
        kernel = _integer(self._header, "ssm.conv_kernel")
        if "rwkv" in name:
            shifts = _integer(self._header, "token_shift_count", 2)
            return width * (shifts + _integer(self._header, "wkv.head_size"))
        if name.startswith("lfm2"):
            return width * (_integer(self._header, "shortconv.l_cache", 1) - 1)
        if name in HYBRID_WITH_DELTA:
            head = _integer(self._header, "kda.head_dim")
            return heads * head * (3 * (kernel - 1 if kernel else 3) + head)
        if name == "minimax-01":
            head = _integer(self._header, "attention.key_length", width // heads if heads else 0)
            return heads * head * head
        inner, state = _integer(self._header, "ssm.inner_size"), _integer(self._header, "ssm.state_size")
        groups = 0 if name in UNGROUPED else _integer(self._header, "ssm.group_count")
        return max(0, kernel - 1) * (inner + 2 * groups * state) + state * inner

    def _sizes(self, what: str) -> list[int]:
        """Size of all keys or all values that a token has in each layer."""
        if not self._heads or self._heads[0] == 0:
            return [0] * self._count
        default = _integer(self._header, "embedding_length") // self._heads[0]
        size = _integer(self._header, f"attention.{what}_length", default)
        sliding = _integer(self._header, f"attention.{what}_length_swa", size)
        return [
            heads * (sliding if self._slides(layer) else size) for layer, heads in enumerate(self._kv_heads)
        ]

    def _slides(self, layer: int) -> bool:
        name = self._header.architecture
        if not self.window or layer >= self._trunk:
            return False
        if name in WINDOW_IN_ALL:
            return layer not in self.recurrent
        pattern = self._header.metadata.get(f"{name}.attention.sliding_window_pattern", 0)
        if name not in WINDOW_INTERVALS and name not in WINDOW_IN_FILE:
            return False
        if isinstance(pattern, tuple):
            return layer < len(pattern) and bool(pattern[layer])
        period = _integer(self._header, "attention.sliding_window_pattern", WINDOW_INTERVALS.get(name, 0))
        return period > 0 and layer % period < period - 1

    def _is_recurrent(self, layer: int) -> bool:
        name = self._header.architecture
        if name in RECURRENT or name in HYBRID_IN_PARALLEL:
            return True
        if name in HYBRID_BY_HEADS:
            return self._kv_heads[layer] == 0 and not self._is_feed_forward(layer)
        if name in HYBRID_BY_INTERVAL:
            named = self._header.metadata.get(f"{name}.attention.recurrent_layers")
            if isinstance(named, tuple) and len(named) > layer:
                return bool(named[layer])
            interval = _integer(self._header, "full_attention_interval", HYBRID_BY_INTERVAL[name])
            return interval > 0 and (layer + 1) % interval != 0
        return False

    def _is_feed_forward(self, layer: int) -> bool:
        """Nemotron-H has layers that are neither recurrent nor attention."""
        if not self._header.architecture.startswith("nemotron_h"):
            return False
        return _per_layer(self._header, "feed_forward_length", self._count)[layer] > 0

    def _has_cache(self, layer: int) -> bool:
        name = self._header.architecture
        if name in RECURRENT or self._is_feed_forward(layer):
            return False
        if layer in self.recurrent and name not in HYBRID_IN_PARALLEL:
            return False
        shared = min(self._count, _integer(self._header, "attention.shared_kv_layers"))
        return layer < LAYERS_WITH_CACHE.get(name, self._count - shared)

    def _index_numbers(self, layers: list[int], *, values: bool) -> int:
        size = _integer(self._header, "attention.indexer.key_length")
        name = self._header.architecture
        if name not in INDEXED or size == 0:
            return 0
        types = self._header.metadata.get(f"{name}.attention.indexer.types")
        if isinstance(types, tuple):
            layers = [layer for layer in layers if layer < len(types) and types[layer]]
        if name == "minimax-m3":
            dense = _integer(self._header, "leading_dense_block_count")
            layers = [layer for layer in layers if layer >= dense]
        return len(layers) * size


def _rounded_up(tokens: int) -> int:
    return -(-tokens // CELL_BLOCK) * CELL_BLOCK


def _per_layer(header: GgufHeader, name: str, layers: int) -> list[int]:
    """A value that is given once, or once for each layer."""
    value = header.metadata.get(f"{header.architecture}.{name}", 0)
    if not isinstance(value, tuple):
        return [_integer(header, name)] * layers
    if len(value) < layers or not all(isinstance(item, int) and 0 <= item < 1 << 32 for item in value):
        raise _unusable(header, name, value)
    return [int(item) for item in value[:layers]]


def _integer(header: GgufHeader, name: str, default: int = 0) -> int:
    value = header.metadata.get(f"{header.architecture}.{name}", default)
    if isinstance(value, tuple):
        return default
    value = header.integer(f"{header.architecture}.{name}", default)
    if not 0 <= value < 1 << 32:
        raise _unusable(header, name, value)
    return value


def _has(header: GgufHeader, name: str) -> bool:
    return f"{header.architecture}.{name}" in header.metadata


def _unusable(header: GgufHeader, name: str, value: object) -> ModelLoadError:
    return ModelLoadError(
        f"{header.path}: metadata {header.architecture}.{name} is {value!r:.60}, which can't be right; "
        "the file is damaged, get it again"
    )
