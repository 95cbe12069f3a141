"""Comparing renderings: what they share, and where they differ."""

from __future__ import annotations

import re
from collections.abc import Sequence

from predictor.chat.form import ContentForm, Pattern, ThoughtForm
from predictor.chat.matching import common_start
from predictor.chat.probing import IDS, NAMES

OPEN_MARK = re.compile(r"[<\[][^<>\[\]\n]*$")
LAST_MARK = re.compile(r"(<[^<>\n]*>|\[[A-Z_ ]+\])\s*$")
FIRST_MARK = re.compile(r"\s*(<[^<>\n]*>|\[/?[A-Z_ ]+\])\s*")
_MARK_START = re.compile(r"[<\[\n ]|$")


def split_at_names(text: str, names: Sequence[str]) -> list[str] | None:
    """The text before each name and behind the last one."""
    pieces, start = [], 0
    for name in names:
        at = text.find(name, start)
        if at < 0:
            return None
        pieces.append(text[start:at])
        start = at + len(name)
    return [*pieces, text[start:]]


def holed(text: str) -> Pattern:
    """A text with holes in place of the probes' ids and names."""
    parts = re.split("|".join((*IDS, *NAMES)), text)
    holed: list[str | None] = []
    for i, part in enumerate(parts):
        holed += [part] if i == 0 else [None, part]
    return tuple(part for part in holed if part != "")


def generalised(one: str, two: str) -> Pattern:
    """What two texts have in common, with a hole where they differ by a count."""
    one, two = (re.sub("|".join((*IDS, *NAMES)), "\0", text) for text in (one, two))
    pieces_one, pieces_two = (re.split(r"(\0|\d+)", text) for text in (one, two))
    if pieces_one[::2] != pieces_two[::2]:
        pieces_two = pieces_one
    pairs = zip(pieces_one, pieces_two, strict=True)
    return _merged([None if left == "\0" or left != right else left for left, right in pairs])


def head_like(head: str, between: Pattern | None) -> Pattern:
    """The head, with a hole for the count that `between` has at the same distance from the name."""
    pattern = holed(head)
    if not pattern or not between or between[-1] is None or len(between) < 3 or between[-2] is not None:
        return pattern
    last, end = pattern[-1], between[-1]
    found = re.search(rf"\d+(?={re.escape(end)}$)", last) if last else None
    if not last or not found:
        return pattern
    return (*pattern[:-1], last[: found.start()], None, last[found.end() :])


def trigger(head: str) -> str:
    """The part of a head that nothing else begins with: its first mark, mostly."""
    head = re.split("|".join((*IDS, *NAMES)), head)[0].strip()
    tag_end = max(head.find(">"), head.find("]"))
    blank = next((i for i, character in enumerate(head) if character.isspace()), len(head))
    if head.startswith(("{", "[{")) or (tag_end < 0 and head.startswith("<")) or 0 <= blank <= tag_end:
        return head
    marks = re.match(r"(<[^<>]+>)<", head)
    if marks:
        return marks[1]
    head = head[:blank]
    brace = head.find("{", 1)
    head = head[:brace] if brace > 0 else head
    return head[:-1] if head.endswith(("][", ">[")) else head


def _merged(parts: Sequence[str | None]) -> Pattern:
    merged: list[str | None] = []
    for part in parts:
        if part == "":
            continue
        if part is not None and merged and merged[-1] is not None:
            merged[-1] += part
        elif part is not None or not merged or merged[-1] is not None:
            merged.append(part)
    return tuple(merged)


def without_thought(text: str, thought: ThoughtForm | None, content: ContentForm) -> str:
    """What an answer says behind a thought that is empty or was closed by the prompt, and empty content."""
    if thought is not None:
        before, end, after = text.partition(thought.end.strip())
        if end and before.strip() in ("", thought.start.strip()):
            text = after
    for mark in (content.start.strip(), content.end.strip()):
        if mark and text.lstrip().startswith(mark):
            text = text.lstrip()[len(mark) :]
    return text


def last_marks(text: str, thought: ThoughtForm | None) -> str:
    """What begins content, where nothing but marks stands before it."""
    if thought is not None:
        text = text.rpartition(thought.end.strip())[2]
    text = re.sub(r"^.*</?\w*think\w*>", "", text, flags=re.DOTALL)
    return text if LAST_MARK.search(text) else ""


def between(text: str, start: str, end: str) -> str:
    """What stands between two words, "" where one is missing."""
    _, found, rest = text.partition(start)
    middle, closed, _ = rest.partition(end)
    return middle if found and closed else ""


def after(text: str, word: str) -> str:
    """What stands behind a word, "" where it is missing."""
    return text.partition(word)[2]


def common_end(one: str, two: str) -> str:
    """The longest common end of two texts that begins at a mark."""
    length = len(common_start([one[::-1], two[::-1]]))
    end = one[len(one) - length :]
    begin = _MARK_START.search(end)
    return end[begin.start() :] if begin else ""


def without_common_end(text: str, other: str) -> str:
    """A text without the end that it shares with another."""
    return text[: len(text) - len(common_end(text, other))]
