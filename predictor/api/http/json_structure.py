"""What a JSON text would cost to read, found out without reading it.

Parsers hold up everything else until they are through, and what comes behind them goes from value to value. A
megabyte of text is one value; a megabyte of `[],[],` is half a million.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from predictor.errors import InvalidRequest

MAX_VALUES = 500_000
"""Elements of lists and members of objects altogether: as many as there are commas."""
MAX_NAMES = MAX_LISTS = 65_536
"""Members of objects, and lists with objects: reading one costs ten times as much as an element of a list."""
MAX_DEPTH = 256

_SLICE = 1 << 18
_STEPS = np.zeros(256, np.int32)
_STEPS[[ord("["), ord("{")]] = 1
_STEPS[[ord("]"), ord("}")]] = -1

_Bytes = np.ndarray[tuple[int], np.dtype[np.uint8]]


def check_structure(text: bytes) -> None:
    """Refuse JSON with too many values or too deep.

    The text need not be valid JSON. Takes about a nanosecond a byte where nothing is suspicious, and ten
    where a closer look is needed.

    Args:
        text: a body, or the part of it that is JSON.

    Raises:
        InvalidRequest: reading it would take too long.
    """
    opening = text.count(b"[") + text.count(b"{")
    if (
        opening <= min(MAX_DEPTH, MAX_LISTS)
        and text.count(b",") <= MAX_VALUES
        and text.count(b":") <= MAX_NAMES
    ):
        return
    values = names = lists = depth = 0
    for outside in _outside_strings(text):
        counts = np.bincount(outside, minlength=256)
        values += int(counts[ord(",")])
        lists += int(counts[ord("[")] + counts[ord("{")])
        names += int(counts[ord(":")])
        depths = depth + np.cumsum(_STEPS[outside], dtype=np.int32)
        depth = int(depths[-1]) if len(depths) else depth
        _check("brackets inside each other", int(depths.max(initial=0)), MAX_DEPTH)
        _check("values", values, MAX_VALUES)
        _check("members of objects", names, MAX_NAMES)
        _check("lists and objects", lists, MAX_LISTS)


def _outside_strings(text: bytes) -> Iterator[_Bytes]:
    """The bytes that are in no string, slice by slice."""
    # Escapes come in pairs from the left, so that pairs of backslashes go first.
    plain = text.replace(rb"\\", b"").replace(rb"\"", b"") if b"\\" in text else text
    inside = np.False_
    for start in range(0, len(plain), _SLICE):
        characters = np.frombuffer(plain, np.uint8, min(_SLICE, len(plain) - start), start)
        within = np.bitwise_xor.accumulate(characters == ord('"')) ^ inside
        inside = within[-1]
        yield characters[~within]


def _check(what: str, found: int, most: int) -> None:
    if found > most:
        raise InvalidRequest(f"the body has over {most} {what}: send less")
