"""From text to tokens and back, for callers who ask for nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from predictor.background import BackgroundThreads, stop_if_abandoned

# Longer texts are tokenized on another thread, so that the event loop keeps serving: about a millisecond.
QUICK_CHARACTERS = 4096

# For all models of the process, since all share its cores.
long_texts = BackgroundThreads("tokenizing", threads=2, most_waiting=256)


class TokenEngine(Protocol):
    """The part of `predictor.engine.Engine` that knows the vocabulary."""

    @property
    def max_sequence_tokens(self) -> int: ...

    def check_length(self, characters: int, param: str) -> None: ...

    def hold_vocabulary(self) -> AbstractContextManager[None]: ...

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]: ...

    def detokenize(self, tokens: Sequence[int], param: str) -> str: ...

    def shown_pieces(self, tokens: Sequence[int], param: str) -> list[bytes]: ...


async def tokenize(
    engine: TokenEngine, parts: Sequence[str | int], param: str, *, add_special: bool, parse_special: bool
) -> list[int]:
    """Tokens of texts in a row, among which there may be tokens already.

    Args:
        engine: has the vocabulary.
        parts: the texts and tokens.
        param: the request's field that they come from.
        add_special: add BOS before the first text where the model wants it.
        parse_special: read control tokens in the texts.

    Raises:
        PromptTooLong: a text is too long whatever its tokens are.
    """

    def run() -> list[int]:
        tokens: list[int] = []
        with engine.hold_vocabulary():
            for index, part in enumerate(parts):
                stop_if_abandoned()
                if isinstance(part, int):
                    tokens.append(part)
                else:
                    engine.check_length(len(part), param)
                    first = add_special and index == 0
                    tokens += engine.tokenize(part, add_special=first, parse_special=parse_special)
        return tokens

    length = sum(len(part) if isinstance(part, str) else 1 for part in parts)
    return run() if length <= QUICK_CHARACTERS else await long_texts.run(run)


async def detokenize(engine: TokenEngine, tokens: Sequence[int], param: str) -> str:
    """The text of tokens, control tokens by their names.

    Raises:
        InvalidRequest: a token is outside the vocabulary.
    """

    def run() -> str:
        with engine.hold_vocabulary():
            return engine.detokenize(tokens, param)

    return run() if len(tokens) <= QUICK_CHARACTERS else await long_texts.run(run)


async def shown_pieces(engine: TokenEngine, tokens: Sequence[int], param: str) -> list[bytes]:
    """The bytes of each token, those of a control token's name too.

    Raises:
        InvalidRequest: a token is outside the vocabulary.
    """

    def run() -> list[bytes]:
        with engine.hold_vocabulary():
            return engine.shown_pieces(tokens, param)

    return run() if len(tokens) <= QUICK_CHARACTERS else await long_texts.run(run)
