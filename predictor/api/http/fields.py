"""Types of request fields that pydantic has only nearly."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field


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


def _whole(value: Any) -> Any:
    """JSON has one kind of number, and some languages write an integer as `8.0`."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


WHOLE = BeforeValidator(_whole)
"""For integers with bounds of their own: `Annotated[int, Field(ge=1), WHOLE]`."""

# Python's integers have no end, but a float has: sampling parameters are compared as floats.
Integer = Annotated[int, Field(ge=-(2**63), lt=2**63), WHOLE]
