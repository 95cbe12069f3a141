"""Matching of a form's literal texts, where models are free in their white space."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from predictor.chat.form import Pattern


class Match(Enum):
    """What a text that is still coming says about a pattern."""

    MORE = "more of the text is needed"
    NO = "it is something else"


def match_literal(literal: str, text: str, at: int) -> int | Match:
    """Where `text` goes on behind a literal at `at`; runs of white space match any others, empty ones too.

    White space at the literal's end is taken as far as it is there.
    """
    if text.startswith(literal, at):
        return at + len(literal)
    size, i = len(text), 0
    while i < len(literal):
        if literal[i].isspace():
            i += 1
            continue
        while at < size and text[at].isspace():
            at += 1
        if at == size:
            return Match.MORE
        if text[at] != literal[i]:
            return Match.NO
        at += 1
        i += 1
    if literal[-1:].isspace():
        while at < size and text[at].isspace():
            at += 1
    return at


def match_pattern(pattern: Pattern, text: str, at: int) -> int | Match:
    """Where `text` goes on behind a pattern at `at`; a hole takes what stands up to the next literal."""
    for i, part in enumerate(pattern):
        if part is not None:
            result = match_literal(part, text, at)
        else:
            following = pattern[i + 1] if i + 1 < len(pattern) else None
            result = _skip_hole(following, text, at)
        if isinstance(result, Match):
            return result
        at = result
    return at


def _skip_hole(following: str | None, text: str, at: int) -> int | Match:
    stop = first_mark(following or "")
    for i in range(at, len(text)):
        if text[i] == stop or text[i].isspace() or text[i] in '"<':
            return i
    return Match.MORE


def first_mark(literal: str) -> str:
    """The first character of a literal that isn't white space, "" where there is none."""
    return literal.lstrip()[:1]


def overlap(text: str, mark: str) -> int:
    """Length of the longest end of `text` that begins `mark`, the whole of it excluded."""
    first = text.find(mark[0], max(0, len(text) - len(mark) + 1)) if mark else -1
    while first >= 0:
        if mark.startswith(text[first:]):
            return len(text) - first
        first = text.find(mark[0], first + 1)
    return 0


def common_start(texts: Sequence[str]) -> str:
    """The longest text that all of some texts begin with."""
    low, high = min(texts, default=""), max(texts, default="")
    end = next((i for i, (one, two) in enumerate(zip(low, high, strict=False)) if one != two), None)
    return low[: min(len(low), len(high)) if end is None else end]


def last_tag(text: str) -> str:
    """The last mark of a closing text: `</tool_call>` of `}\n</tool_call>`."""
    text = text.strip()
    start = max(text.rfind("<"), text.rfind("[/"))
    return text[start:] if start >= 0 else ""


def first_line(text: str) -> str:
    """A closing text up to its first line break."""
    return text.lstrip().partition("\n")[0]
