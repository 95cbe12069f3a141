"""A real model in a real GGUF that says a script: for agents' loops, whose every word must be known.

llama.cpp, the tokenizer, the engine and the grammars do what they do with any model, and the text is certain
whatever the sampling. The model has one layer. Its attention looks for the latest anchor: the mark of the
turn, which ends the prompt, or the arguments of a call that it has made since. Its feed-forward layer has a
neuron for each step of the script: this anchor and this token make the next token. The chat template's mark
says how many results of tools the conversation has.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

PIECE = 8
"""Characters of a text in one token."""
CONTEXT = 131_072
HEAD = 32
SHARP = 30.0  # between the attention's scores of one anchor and of the next

_CALL = '{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}'
TEMPLATE = """{%- if tools -%}<|system|>Tools:
{%- for tool in tools %}
{{ tool | tojson }}
{%- endfor %}<|end|>{%- endif -%}
{%- set ns = namespace(results=0) -%}
{%- for m in messages -%}
{%- if m.role == 'tool' -%}
{%- set ns.results = ns.results + 1 -%}
<|tool|>{{ m.content }}<|end|>
{%- else -%}
<|{{ m.role }}|>
{%- if m.role == 'assistant' and m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif -%}
{{ m.content }}
{%- for call in m.tool_calls or [] -%}
<tool_call>CALL</tool_call>
{%- endfor -%}
<|end|>
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
<|assistant|>
{%- if not tools %}<turn_plain>
{%- elif ns.results >= TURNS %}<turn_last>
{%- else %}<turn_{{ ns.results }}>{% endif -%}
{%- endif -%}""".replace("CALL", _CALL)

_CONTROL = ("<|system|>", "<|user|>", "<|assistant|>", "<|developer|>", "<|tool|>", "<|end|>")
# So that long prompts have fewer tokens; what the script says has longer ones.
_WORDS = (
    *("the", "to", "and", "of", "a", "in", "is", "for", "you", "that"),
    *("it", "with", "this", "or", "be", "on", "not", "are", "if", "as"),
    *("use", "when", "can", "by", "from", "an", "file", "tool", "code", "user"),
    *("only", "will", "your", "any", "should", "name", "do", "path", "string", "type"),
    *("description", "properties", "required"),
)
_LETTERS = [chr(code) for code in range(33, 127)]
END = "</s>"


@dataclass(frozen=True)
class Turn:
    """What the model says in one turn.

    Attributes:
        text, thought: maybe empty.
        calls: names and arguments; no two calls of a script have the same arguments.
    """

    text: str = ""
    thought: str = ""
    calls: Sequence[tuple[str, Mapping[str, Any]]] = ()

    def pieces(self) -> Iterator[tuple[str, bool]]:
        """The tokens, and which of them are anchors; where a grammar leaves no choice, it cuts them so."""
        taken: set[str] = set()
        if self.thought:
            yield "<think>", False
            yield from ((piece, False) for piece in _cut(self.thought, taken))
            yield "</think>", False
        yield from ((piece, False) for piece in _cut(self.text, taken))
        for name, arguments in self.calls:
            for piece in ("<tool_call>", '{"name": "', name, '", "arguments": ', "{"):
                yield piece, False
            yield json.dumps(arguments)[1:], True
            yield "}", False
            yield "</tool_call>", False
        yield END, False


@dataclass(frozen=True)
class Script:
    """What the model says.

    Attributes:
        turns: one for each turn with tools, by the number of results that there are.
        last: the turn once there are as many results as calls.
        plain: where there are no tools.
    """

    turns: Mapping[int, Turn]
    last: Turn
    plain: Turn

    @property
    def results(self) -> int:
        """How many calls there are in all."""
        return sum(len(turn.calls) for turn in self.turns.values())


def write_scripted_model(folder: Path, script: Script) -> tuple[Path, Path]:
    """The model's GGUF and its chat template, as files in a folder."""
    builder = _Builder()
    marked = {f"<turn_{i}>": turn for i, turn in sorted(script.turns.items())}
    for mark, turn in (marked | {"<turn_last>": script.last, "<turn_plain>": script.plain}).items():
        builder.add_turn(mark, turn)
    path, template = folder / "scripted.gguf", folder / "scripted.jinja"
    builder.write(path)
    template.write_text(TEMPLATE.replace("TURNS", str(script.results)))
    return path, template


def _cut(text: str, taken: set[str]) -> Iterator[str]:
    """The text in pieces of which no two are the same, as each must lead to the one behind it."""
    while text:
        sizes = (*range(PIECE, len(text) + 1), *range(min(PIECE, len(text)), 0, -1))
        size = next(size for size in sizes if text[:size] not in taken)
        taken.add(text[:size])
        yield text[:size]
        text = text[size:]


@dataclass
class _Builder:
    """Gathers the vocabulary and the steps of the script.

    Attributes:
        tokens: texts and kinds, by id.
        anchors: ids, the earliest first.
        steps: anchor's place, token and next token.
    """

    tokens: dict[str, gguf.TokenType] = field(default_factory=dict)
    anchors: list[int] = field(default_factory=list)
    steps: list[tuple[int, int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tokens["<unk>"] = gguf.TokenType.UNKNOWN
        self.tokens |= dict.fromkeys(("<s>", END), gguf.TokenType.CONTROL)
        self.tokens |= dict.fromkeys((f"<0x{i:02X}>" for i in range(256)), gguf.TokenType.BYTE)
        self.tokens |= dict.fromkeys((" ", *_LETTERS), gguf.TokenType.NORMAL)
        self.tokens |= dict.fromkeys(_CONTROL, gguf.TokenType.CONTROL)
        self.tokens |= dict.fromkeys((f" {word}" for word in _WORDS), gguf.TokenType.USER_DEFINED)

    def _id(self, text: str, kind: gguf.TokenType = gguf.TokenType.USER_DEFINED) -> int:
        self.tokens.setdefault(text, kind)
        return list(self.tokens).index(text)

    def add_turn(self, mark: str, turn: Turn) -> None:
        pieces = [(mark, True), *turn.pieces()]
        for (before, is_anchor), (after, _) in pairwise(pieces):
            first = self._id(
                before, gguf.TokenType.CONTROL if before == mark else gguf.TokenType.USER_DEFINED
            )
            if is_anchor:
                assert first not in self.anchors, f"{before} is said twice"
                self.anchors.append(first)
            self.steps.append((len(self.anchors) - 1, first, self._id(after)))

    def write(self, path: Path) -> None:
        n, anchors, steps = len(self.tokens), len(self.anchors), len(self.steps)
        # Directions of their own for the last token, the latest anchor and the next token.
        width = -(-(2 * n + anchors) // HEAD) * HEAD
        inner = -(-steps // HEAD) * HEAD
        loud = float(np.sqrt(width))
        t = {name: np.zeros(shape, np.float32) for name, shape in _shapes(n, width, inner).items()}
        np.fill_diagonal(t["token_embd"], 1)
        # Keys and queries meet in the last dimensions of the head, which rotary positions leave as they are.
        t["blk.0.attn_q"][HEAD - 1, :n] = np.sqrt(HEAD) / loud
        for rank, token in enumerate(self.anchors):
            t["blk.0.attn_k"][HEAD - 1, token] = SHARP * (rank + 1) / loud
        self._copy_anchors(t, n, loud)
        for i, (anchor, token, following) in enumerate(self.steps):
            t["blk.0.ffn_gate"][i, token] = 1
            t["blk.0.ffn_up"][i, n + anchor] = 1
            t["blk.0.ffn_down"][n + anchors + following, i] = 1
        for token in range(n):
            t["output"][token, n + anchors + token] = 4
        self._save(path, t, width, inner)

    def _copy_anchors(self, t: dict[str, npt.NDArray[np.float32]], n: int, loud: float) -> None:
        """What the attention has found is added to the state: a direction for each anchor."""
        assert len(self.anchors) <= HEAD
        for rank, token in enumerate(self.anchors):
            t["blk.0.attn_v"][rank, token] = 1 / loud
            t["blk.0.attn_output"][n + rank, rank] = 1

    def _save(
        self, path: Path, tensors: Mapping[str, npt.NDArray[np.float32]], width: int, inner: int
    ) -> None:
        writer = gguf.GGUFWriter(path, "llama")
        writer.add_context_length(CONTEXT)
        writer.add_embedding_length(width)
        writer.add_feed_forward_length(inner)
        writer.add_block_count(1)
        writer.add_head_count(1)
        writer.add_head_count_kv(1)
        writer.add_key_length(HEAD)
        writer.add_value_length(HEAD)
        writer.add_rope_dimension_count(HEAD)
        writer.add_rope_freq_base(1e30)
        writer.add_layer_norm_rms_eps(1e-6)
        writer.add_vocab_size(len(self.tokens))
        writer.add_file_type(0)
        writer.add_tokenizer_model("llama")
        writer.add_token_list(["\u2581" if text == " " else text for text in self.tokens])
        writer.add_token_scores([-float(i) for i in range(len(self.tokens))])
        writer.add_token_types(list(self.tokens.values()))
        writer.add_unk_token_id(0)
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_add_bos_token(False)
        writer.add_add_space_prefix(False)
        for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
            writer.add_tensor(f"{name}.weight", np.ones(width, np.float32))
        for name, tensor in tensors.items():
            writer.add_tensor(f"{name}.weight", tensor)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def _shapes(n: int, width: int, inner: int) -> dict[str, tuple[int, int]]:
    into = dict.fromkeys(("attn_q", "attn_k", "attn_v"), (HEAD, width))
    layer = {**into, "attn_output": (width, HEAD), "ffn_gate": (inner, width), "ffn_up": (inner, width)}
    layer["ffn_down"] = (width, inner)
    both = {"token_embd": (n, width), "output": (n, width)}
    return both | {f"blk.0.{name}": shape for name, shape in layer.items()}
