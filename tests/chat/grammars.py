"""What grammars accept and allow, tried on bytes."""

from __future__ import annotations

import random

import numpy as np
from llguidance import LLMatcher, LLTokenizer

BYTES = LLTokenizer("byte")


def refusal(grammar: str, text: str) -> str | None:
    """Why a grammar doesn't accept a text as a whole; None where it does."""
    matcher = LLMatcher(BYTES, grammar, log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    tokens = BYTES.tokenize_bytes(text.encode())
    taken = matcher.validate_tokens(tokens)
    if taken < len(tokens):
        return f"it stops behind {text.encode()[:taken].decode(errors='replace')!r}"
    matcher.consume_tokens(tokens)
    return None if matcher.is_accepting() else "it wants more"


def random_text(grammar: str, seed: int) -> str:
    """A text that a grammar allows, each byte chosen at random."""
    choose = random.Random(seed)
    matcher = LLMatcher(BYTES, grammar, log_level=0)
    text = bytearray()
    while not matcher.is_stopped():
        allowed = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")
        choices = np.flatnonzero(allowed[:256])
        if matcher.is_accepting() and (not len(choices) or choose.random() < 0.5):
            break
        plain = [byte for byte in choices if 0x20 <= byte < 0x7F]
        # Mostly letters: white space is allowed at many places, and others make up characters.
        byte = int(choose.choice(plain if plain and choose.random() < 0.9 else list(choices)))
        matcher.consume_token(byte)
        text.append(byte)
        assert len(text) < 10_000
    return text.decode()
