"""A model's tokens, for those who must know all of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """All tokens of a model.

    Attributes:
        pieces: bytes in generated text by token id; empty for control tokens.
        control: names of the control tokens, such as b"<|im_start|>", by token id.
        end_tokens: tokens that end a text.
        address: of llama.cpp's vocabulary; valid while the model is loaded.
        tokenize_address: of llama.cpp's function `llama_tokenize`.
    """

    pieces: tuple[bytes, ...]
    control: dict[int, bytes]
    end_tokens: tuple[int, ...]
    address: int
    tokenize_address: int
