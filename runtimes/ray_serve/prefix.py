"""What of a request decides which replica has computed its beginning before."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import orjson

from predictor.api.anthropic.content import BILLING

# In the order in which the model reads them.
_TEXTS = (
    *("tools", "instructions", "system", "sys_msg", "messages", "input", "input_prefix", "prompt"),
    "text_input",
)
BLOCK_CHARACTERS = 256
"""About 60 tokens: shorter shared beginnings aren't worth a detour."""


def prefix_keys(body: bytes) -> tuple[int, ...]:
    """A key for each beginning of the prompt in an HTTP body that ends with a whole block.

    Equal keys at one place mean equal beginnings up to there. They hold within one process, as `hash` does.
    A body that isn't understood has none: the replica will say what is wrong with it.
    """
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError:
        return ()
    text = "\0".join(_texts(fields)) if isinstance(fields, dict) else ""
    key, keys = 0, []
    for start in range(0, len(text) - BLOCK_CHARACTERS + 1, BLOCK_CHARACTERS):
        key = hash((key, text[start : start + BLOCK_CHARACTERS]))
        keys.append(key)
    return tuple(keys)


def _texts(fields: dict[str, Any]) -> Iterator[str]:
    """The texts of a request in any of the protocols, in the order in which the model reads them."""
    for name in _TEXTS:
        # What Claude Code is billed by changes with every request, and the model never sees it.
        yield from (text for text in _strings(fields.get(name)) if not text.startswith(BILLING))
    yield from _strings(fields.get("instances"))
    inputs = [tensor for tensor in _list(fields.get("inputs")) if isinstance(tensor, dict)]
    for wanted in ("system", "prompt"):
        for tensor in inputs:
            if tensor.get("name") == wanted:
                yield from _strings(tensor.get("data"))


def _strings(value: Any) -> Iterator[str]:
    """Every string in a JSON value, in its order."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _strings(part)
    else:
        for part in _list(value):
            yield from _strings(part)


def _list(value: Any) -> Iterable[Any]:
    return value if isinstance(value, list) else ()
