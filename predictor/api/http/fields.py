"""Types of request fields that pydantic has only nearly."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field


def is_unicode(text: str) -> bool:
    """False for a lone surrogate, which JSON can carry and UTF-8 can't."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _checked(text: str) -> str:
    if not is_unicode(text):
        raise ValueError("must be valid Unicode text, without lone surrogates")
    return text


Text = Annotated[str, AfterValidator(_checked)]

# Python's integers have no end, but a float has: sampling parameters are compared as floats.
Integer = Annotated[int, Field(ge=-(2**63), lt=2**63)]
