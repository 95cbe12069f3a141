"""Limits on the fields of a request that can be seen without looking into them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Annotated

from pydantic import AfterValidator

from predictor.api.http.fields import Text
from predictor.engine.request import MAX_STOP_CHARACTERS, MAX_STOP_STRINGS

MAX_BIASES = 64 * 1024
"""Entries of `logit_bias`, for all answers of a call together."""
MAX_ID = 256


def _short(text: str) -> str:
    if len(text) > MAX_ID:
        raise ValueError(f"must have at most {MAX_ID} characters")
    return text


Identifier = Annotated[Text, AfterValidator(_short)]
"""An id that a caller gives and that comes back in answers and logs."""


def check_stop_strings(strings: Sequence[str]) -> None:
    """Refuse too many stop strings, or too long ones.

    Raises:
        ValueError: as pydantic's validators do.
    """
    if len(strings) > MAX_STOP_STRINGS or sum(map(len, strings)) > MAX_STOP_CHARACTERS:
        raise ValueError(
            f"must be at most {MAX_STOP_STRINGS} strings of {MAX_STOP_CHARACTERS} characters together"
        )


def check_biases(entries: Collection[object]) -> None:
    """Refuse a bias on more tokens than there are.

    Raises:
        ValueError: as pydantic's validators do.
    """
    if len(entries) > MAX_BIASES:
        raise ValueError(f"must have at most {MAX_BIASES} entries, not {len(entries)}")
