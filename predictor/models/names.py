"""Names under which one model is served."""

from __future__ import annotations

import re
from typing import Any

_FORM = re.compile(r"\S+")


def parse_names(value: Any) -> Any:
    """The names of an option's value, each once: texts, or one text with blanks between them.

    Raises:
        ValueError: a name can't be used in requests.
    """
    if isinstance(value, str):
        value = value.split()
    if not isinstance(value, (list, tuple)) or not all(isinstance(name, str) for name in value):
        return value
    for name in value:
        if not _FORM.fullmatch(name):
            raise ValueError(f"{name!r} is no name: it must have a character, and no blank")
    if not value:
        raise ValueError("must be a name, or several")
    if "/" in value[0]:
        raise ValueError(
            f"{value[0]!r} has a slash, which the paths of V1 and V2 can't hold: give another name before it"
        )
    return tuple(dict.fromkeys(value))
