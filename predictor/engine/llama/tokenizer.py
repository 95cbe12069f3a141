"""From text to tokens."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from functools import cached_property
from itertools import chain
from typing import Any

import llama_cpp.llama_cpp as lib

from predictor.engine.special_tokens import Segment, SpecialToken, SpecialTokens

_READ_WHERE_ASKED = lib.LLAMA_TOKEN_ATTR_CONTROL | lib.LLAMA_TOKEN_ATTR_UNKNOWN
_SPECIAL = _READ_WHERE_ASKED | lib.LLAMA_TOKEN_ATTR_USER_DEFINED
# Behind it a text goes on without a space before it.
_ANCHOR = "\n"


class Tokenizer:
    """llama.cpp's tokenizer of one vocabulary, given the text between special tokens.

    Args:
        vocabulary: llama.cpp's; valid as long as its model.
    """

    def __init__(self, vocabulary: Any) -> None:
        self._vocab = vocabulary
        size = lib.llama_vocab_n_tokens(vocabulary)
        attributes = ((token, lib.llama_vocab_get_attr(vocabulary, token)) for token in range(size))
        special = [self._special(token, flags) for token, flags in attributes if flags & _SPECIAL]
        known = [token for token in special if token is not None]
        self.special = SpecialTokens(known, self._read)
        self._texts = {token.id: token.text for token in known}
        self._control = frozenset(token.id for token in known if token.is_control)

    def tokens(
        self, segments: Sequence[Segment], *, add_special: bool, markers: frozenset[int] | None = None
    ) -> list[int]:
        """Token ids of a prompt; see `Model.tokenize_segments`.

        Args:
            segments: the prompt.
            add_special: add BOS and EOS where the model is trained with them.
            markers: further tokens that count as control tokens. None lets the tokenizer put control tokens
                together out of smaller ones, as llama.cpp does.
        """
        guarded = None if markers is None else self._control | markers
        tokens: list[int] = []
        for piece in self.special.split(segments, markers or frozenset()):
            if isinstance(piece, int):
                tokens.append(piece)
            else:
                tokens += self._of_text(piece[0], guarded)
                for text in piece[1:]:
                    tokens += self._of_text(text, guarded, continues=True)
        if add_special:
            first, last = self._ends
            return [*first, *tokens, *last]
        return tokens

    def _of_text(self, text: str, guarded: frozenset[int] | None, *, continues: bool = False) -> list[int]:
        """Tokens of a text without special tokens."""
        tokens = self._continued(text) if continues else self._tokenize(text)
        if guarded is None or guarded.isdisjoint(tokens):
            return tokens
        # Some vocabularies build a control token of the pieces of its name.
        names = {self._texts[token] for token in guarded.intersection(tokens)}
        first, *rest = _cut_within(text, names)
        if not rest:
            return tokens
        parts = [self._of_text(first, guarded, continues=continues)]
        parts += (self._of_text(part, guarded, continues=True) for part in rest)
        return list(chain.from_iterable(parts))

    def _special(self, token: int, flags: int) -> SpecialToken | None:
        try:
            text = self._name(token).decode()
        except UnicodeDecodeError:  # No text holds it.
            return None
        if not text:
            return None
        return SpecialToken(
            token,
            text,
            is_control=bool(flags & _READ_WHERE_ASKED),
            strips_left=bool(flags & lib.LLAMA_TOKEN_ATTR_LSTRIP),
            strips_right=bool(flags & lib.LLAMA_TOKEN_ATTR_RSTRIP),
        )

    def _name(self, token: int) -> bytes:
        name: bytes = lib.llama_vocab_get_text(self._vocab, token)
        return name

    @cached_property
    def _ends(self) -> tuple[list[int], list[int]]:
        """What stands before and behind every text."""
        added = self._tokenize("", add_special=True)
        if len(added) == 1 and not lib.llama_vocab_get_add_bos(self._vocab):
            return [], added
        return added[:1], added[1:]

    def _continued(self, text: str) -> list[int]:
        """Tokens of a text that goes on behind other text, so that no space is put before it."""
        anchor, tokens = self._tokenize(_ANCHOR), self._tokenize(_ANCHOR + text)
        length = len(anchor)
        return tokens[length:] if tokens[:length] == anchor else self._tokenize(text)

    def _read(self, text: str) -> list[int]:
        return self._tokenize(text, parse_special=True)

    def _tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = False) -> list[int]:
        data = text.encode("utf-8", "replace")
        room = len(data) + 8
        while True:
            tokens = (lib.llama_token * room)()
            count = lib.llama_tokenize(self._vocab, data, len(data), tokens, room, add_special, parse_special)
            if count >= 0:
                return list(tokens[:count])
            room = -count


def _cut_within(text: str, names: Collection[str]) -> list[str]:
    """The text in parts, none of which holds one of the names."""
    spelled = {name.replace("\u2581", " ") for name in names} | set(names)
    pattern = re.compile("|".join(re.escape(name) for name in spelled if len(name) > 1) or r"(?!)")
    parts: list[str] = []
    start = 0
    while match := pattern.search(text, start):
        parts.append(text[start : match.start() + 1])
        start = match.start() + 1
    return [*parts, text[start:]]
