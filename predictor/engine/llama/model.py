"""Weights and vocabulary."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as lib

from predictor.engine.infill_tokens import InfillTokens
from predictor.engine.llama.backend import Owner, recent_errors, start_backend
from predictor.engine.llama.tokenizer import Tokenizer
from predictor.engine.past import Past
from predictor.engine.special_tokens import Segment
from predictor.engine.vocabulary import Vocabulary
from predictor.errors import ModelLoadError

# Their caches of compressed tokens can't be put back without the tokens between two of them.
WITHOUT_RESUMING = {"deepseek4"}


class Model(Owner):
    """Weights and vocabulary of one GGUF file.

    Args:
        path: the file, or the first part of a split one.
        gpu_layers: layers to put on a GPU; -1 for all.
        use_mmap: map the file instead of reading it.
        use_mlock: keep the weights in memory.

    Raises:
        ModelLoadError: llama.cpp refuses the file; the message carries its reason.
    """

    def __init__(
        self, path: Path, *, gpu_layers: int = 0, use_mmap: bool = True, use_mlock: bool = False
    ) -> None:
        start_backend()
        params = lib.llama_model_default_params()
        params.n_gpu_layers = gpu_layers
        params.load_mode = (lib.LLAMA_LOAD_MODE_MMAP if use_mmap else lib.LLAMA_LOAD_MODE_NONE) + (
            lib.LLAMA_LOAD_MODE_MLOCK if use_mlock else 0
        )
        recent_errors.clear()
        self.handle: Any = lib.llama_model_load_from_file(str(path).encode(), params)
        if not self.handle:
            reason = "; ".join(recent_errors) or "no reason given"
            raise ModelLoadError(f"llama.cpp cannot load {path}: {reason}")
        self._vocab = lib.llama_model_get_vocab(self.handle)
        self._tokenizer = Tokenizer(self._vocab)
        self.path = path
        self.n_vocab: int = lib.llama_vocab_n_tokens(self._vocab)
        self.trained_context: int = lib.llama_model_n_ctx_train(self.handle)
        self.end_tokens: tuple[int, ...] = tuple(
            token for token in range(self.n_vocab) if lib.llama_vocab_is_eog(self._vocab, token)
        )
        self._end_tokens = frozenset(self.end_tokens)
        self._pieces: dict[int, bytes] = {}

    @property
    def past(self) -> Past:
        """Where a sequence's cache can be shortened."""
        if lib.llama_model_is_recurrent(self.handle):
            return Past.STATE
        if lib.llama_model_is_hybrid(self.handle):
            return Past.PARTLY_STATE
        return Past.WINDOW if self.window else Past.ALL

    @property
    def window(self) -> int:
        """How many tokens the layers with a sliding window look at; 0 where there are none."""
        return int(lib.llama_model_n_swa(self.handle))

    @property
    def can_resume(self) -> bool:
        """Whether a sequence can be continued from an earlier place at all."""
        return self.metadata("general.architecture") not in WITHOUT_RESUMING

    def is_control(self, token: int) -> bool:
        """Whether a token structures text and is none, such as the start of a message."""
        return bool(lib.llama_vocab_get_attr(self._vocab, token) & lib.LLAMA_TOKEN_ATTR_CONTROL)

    @property
    def can_generate(self) -> bool:
        """False for encoder-only models, which have no next token."""
        return bool(lib.llama_model_has_decoder(self.handle))

    @property
    def is_causal(self) -> bool:
        """False for encoders, in which a token sees those behind it too."""
        return self.metadata(f"{self.metadata('general.architecture')}.attention.causal") != "false"

    @property
    def vocab_handle(self) -> Any:
        """llama.cpp's pointer to the vocabulary."""
        return self._vocab

    def metadata(self, key: str) -> str:
        """A value of the GGUF header as text, "" where there is none; long ones are cut."""
        buffer = ctypes.create_string_buffer(256)
        lib.llama_model_meta_val_str(self.handle, key.encode(), buffer, len(buffer))
        return buffer.value.decode("utf-8", "replace")

    @property
    def embedding_size(self) -> int:
        """Numbers in the vector of a text."""
        return int(lib.llama_model_n_embd_out(self.handle))

    @property
    def size_bytes(self) -> int:
        """Size of all tensors."""
        return int(lib.llama_model_size(self.handle))

    @property
    def description(self) -> str:
        """llama.cpp's one-line description, such as "llama ?B Q4_1"."""
        buffer = ctypes.create_string_buffer(256)
        lib.llama_model_desc(self.handle, buffer, len(buffer))
        return buffer.value.decode("utf-8", "replace")

    @property
    def chat_template(self) -> str | None:
        """The Jinja source in the GGUF, None when it has none."""
        source = lib.llama_model_chat_template(self.handle, None)
        return source.decode("utf-8", "replace") if source else None

    @property
    def bos_text(self) -> str:
        """The text of the beginning-of-sequence token, "" when there is none."""
        return self._special_text(lib.llama_vocab_bos(self._vocab))

    @property
    def eos_text(self) -> str:
        """The text of the end-of-sequence token, "" when there is none."""
        return self._special_text(lib.llama_vocab_eos(self._vocab))

    def _special_text(self, token: int) -> str:
        return "" if token < 0 else lib.llama_vocab_get_text(self._vocab, token).decode("utf-8", "replace")

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Token ids of a text, in linear time and equal to llama.cpp's.

        Args:
            text: any text; lone surrogates are replaced.
            add_special: add BOS and EOS where the model is trained with them.
            parse_special: read "<|im_end|>" and the like as control tokens, not as text.
        """
        return self._tokenizer.tokens([Segment(text, parse_special)], add_special=add_special)

    def tokenize_segments(
        self, segments: Sequence[Segment], *, add_special: bool, markers: frozenset[int] = frozenset()
    ) -> list[int]:
        """Token ids of a prompt, in whose own segments alone control tokens are read.

        Where there are none in the others, they are the same as of the whole text.

        Args:
            segments: the prompt.
            add_special: add BOS and EOS where the model is trained with them.
            markers: further tokens that count as control tokens; see the method of this name.
        """
        return self._tokenizer.tokens(segments, add_special=add_special, markers=markers)

    def markers(self, source: str) -> frozenset[int]:
        """Tokens that a chat template's source names and that llama.cpp would read in any text."""
        return self._tokenizer.special.named_in(source)

    def control_tokens(self, texts: Iterable[str]) -> dict[int, bytes]:
        """Names of the control tokens in some texts, by id, without those that end an answer."""
        tokens = {
            token
            for text in texts
            for token in self.tokenize(text, add_special=False, parse_special=True)
            if not self.is_end(token) and self.is_control(token)
        }
        return {token: lib.llama_vocab_get_text(self._vocab, token) for token in sorted(tokens)}

    def infill_tokens(self) -> InfillTokens | None:
        """The control tokens for filling gaps, None for a model that wasn't trained for it."""
        vocab = self._vocab
        prefix, suffix, middle, repository, file = (
            None if token < 0 else token
            for token in (
                lib.llama_vocab_fim_pre(vocab),
                lib.llama_vocab_fim_suf(vocab),
                lib.llama_vocab_fim_mid(vocab),
                lib.llama_vocab_fim_rep(vocab),
                lib.llama_vocab_fim_sep(vocab),
            )
        )
        if prefix is None or suffix is None or middle is None:
            return None
        start = (lib.llama_vocab_bos(vocab),) if lib.llama_vocab_get_add_bos(vocab) else ()
        return InfillTokens(start, prefix, suffix, middle, repository, file)

    def end_texts(self) -> list[str]:
        """Names of the tokens that end an answer."""
        texts = (lib.llama_vocab_get_text(self._vocab, token) for token in self.end_tokens)
        return [text.decode("utf-8", "replace") for text in texts]

    def piece(self, token: int) -> bytes:
        """The bytes a token stands for in generated text; empty for control tokens."""
        cached = self._pieces.get(token)
        if cached is None:
            cached = self._pieces[token] = self._read_piece(token, special=False)
        return cached

    def shown_piece(self, token: int) -> bytes:
        """The bytes a token stands for in a prompt: as `piece`, and a control token's name."""
        return self.piece(token) or self._read_piece(token, special=True)

    def detokenize(self, tokens: Sequence[int]) -> str:
        """The text that tokens of the vocabulary stand for, control tokens by their names."""
        count, room = len(tokens), 8 * len(tokens) + 8
        ids = (lib.llama_token * count)(*tokens)
        while True:
            buffer = ctypes.create_string_buffer(room)
            length = lib.llama_detokenize(self._vocab, ids, count, buffer, room, False, True)
            if length >= 0:
                return buffer.raw[:length].decode("utf-8", "replace")
            room = -length

    def _read_piece(self, token: int, *, special: bool) -> bytes:
        room = 64
        while True:
            buffer = ctypes.create_string_buffer(room)
            length = lib.llama_token_to_piece(self._vocab, token, buffer, room, 0, special)
            if length >= 0:
                return buffer.raw[:length]
            room = -length

    def vocabulary(self) -> Vocabulary:
        """All tokens; reading them takes about 3 microseconds each."""
        tokens = range(self.n_vocab)
        control = {
            token: lib.llama_vocab_get_text(self._vocab, token) for token in tokens if self.is_control(token)
        }
        function = ctypes.cast(lib._lib.llama_tokenize, ctypes.c_void_p)
        return Vocabulary(
            pieces=tuple(self.piece(token) for token in tokens),
            control=control,
            end_tokens=self.end_tokens,
            address=self._vocab,
            tokenize_address=function.value or 0,
        )

    @cached_property
    def longest_token(self) -> int | None:
        """Most bytes of text that one token stands for; None where whole stretches of text can become one.

        The first use reads the vocabulary.
        """
        if lib.llama_vocab_type(self._vocab) not in (lib.LLAMA_VOCAB_TYPE_SPM, lib.LLAMA_VOCAB_TYPE_BPE):
            return None
        names = (len(lib.llama_vocab_get_text(self._vocab, token)) for token in range(self.n_vocab))
        return max(1, *names)

    def is_end(self, token: int) -> bool:
        """Whether the model ends its turn with this token."""
        return token in self._end_tokens

    def close(self) -> None:
        if self.handle:
            lib.llama_model_free(self.handle)
            self.handle = None
