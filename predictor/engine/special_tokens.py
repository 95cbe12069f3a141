"""Finding special tokens in a text, as llama.cpp finds them but in linear time, and only where they count.

llama.cpp goes through the special tokens, the longest first, and cuts every occurrence out of what text is
left. It keeps the pieces in a list that it walks from the start for each cut, which takes quadratic time.
Here the occurrences are found by one regular expression. Those that don't overlap need no further thought;
only where they do, the same order decides.
Source of the order: llama.cpp's `tokenizer_st_partition` in src/llama-vocab.cpp.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from operator import itemgetter
from typing import NamedTuple

_SPACES = re.compile(r"[ \t\n\v\f\r]+")


class Segment(NamedTuple):
    """A part of a prompt.

    Attributes:
        text: any text.
        is_own: whether whoever wrote it may write control tokens: a chat template, not its user.
    """

    text: str
    is_own: bool


@dataclass(frozen=True, slots=True)
class SpecialToken:
    """A token that is cut out of a text before the rest is tokenized.

    Attributes:
        id: in the vocabulary.
        text: not empty.
        is_control: llama.cpp reads it only where it is asked to read special tokens.
        strips_left: swallows the white space before it.
        strips_right: swallows the white space behind it.
    """

    id: int
    text: str
    is_control: bool
    strips_left: bool = False
    strips_right: bool = False


class _Cut(NamedTuple):
    """A token at `start`; it swallows the text up to `end` and from `left`."""

    left: int
    start: int
    end: int
    token: SpecialToken


_Run = tuple[int, int]
Piece = int | tuple[str, ...]
"""A token, or the text between two: mostly one string, and several where a token's name must not be read."""


class SpecialTokens:
    """The special tokens of a vocabulary.

    Args:
        tokens: all of them.
        read: what llama.cpp makes of a text in which special tokens are read; asked about tokens that are
            equally long and can overlap, and about names that two tokens share.
    """

    def __init__(self, tokens: Iterable[SpecialToken], read: Callable[[str], Sequence[int]]) -> None:
        by_text: dict[str, SpecialToken] = {}
        for token in tokens:
            if token.text not in by_text or read(token.text)[0] == token.id:
                by_text[token.text] = token
        self.all = tuple(_ranked(by_text.values(), read))
        self._rank = {token.text: rank for rank, token in enumerate(self.all)}
        self._pattern = _longest(by_text)
        self._swallowing = any(token.strips_left or token.strips_right for token in self.all)
        starts = {text[0] for text in by_text}
        # Behind the start of such a name no other can begin.
        self._inert = {text for text in by_text if not starts.intersection(text[1:])}

    def named_in(self, source: str) -> frozenset[int]:
        """The tokens that `source` writes though llama.cpp reads them in any text.

        Some models' control tokens are marked in their files as if they were words of the vocabulary. Those
        that a chat template writes are its own, like control tokens; white space isn't.
        """
        return frozenset(
            token.id
            for token in self.all
            if not token.is_control and not token.text.isspace() and token.text in source
        )

    def split(self, segments: Sequence[Segment], markers: frozenset[int] = frozenset()) -> list[Piece]:
        """Cut the special tokens out of a prompt.

        Control tokens and `markers` count only where they are all in own segments, other special tokens
        anywhere.
        """
        text = "".join(segment.text for segment in segments)
        spaces = [match.span() for match in _SPACES.finditer(text)] if self._swallowing else []
        search = _Search(text, _own_runs(segments), spaces, markers)
        for first, last, names in self._clusters(search):
            cut = self._only(search, first, last, names)
            if cut is not None:
                search.cuts.append(cut)
            else:
                search.resolve(first, last, [self.all[rank] for rank in sorted(self._within(names))])
        return search.pieces()

    def _only(self, search: _Search, first: int, last: int, names: Sequence[str]) -> _Cut | None:
        """The one token of a cluster, where it holds no other occurrence and the token counts there."""
        if len(names) != 1:
            return None
        token = self.all[self._rank[names[0]]]
        start = search.text.index(names[0], first, last)
        end = start + len(token.text)
        if not search.counts(token, start, end):
            return None
        return search.cut(token, start, first, last)

    def _within(self, names: Iterable[str]) -> set[int]:
        """Ranks of the tokens with these names, and of those whose names these begin with."""
        return {
            self._rank[name[:end]]
            for name in set(names)
            for end in range(1, len(name) + 1)
            if name[:end] in self._rank
        }

    def _clusters(self, search: _Search) -> Iterator[tuple[int, int, list[str]]]:
        """Stretches of text in which occurrences overlap, with the longest name at each place there.

        Where tokens may swallow white space, it belongs to the stretch that it touches.
        """
        first = last = -1
        names: list[str] = []
        for start, name in self._occurrences(search.text):
            left, right = search.with_spaces(start, start + len(name))
            if left >= last:
                if names:
                    yield first, last, names
                first, last, names = left, right, [name]
            else:
                first, last = min(first, left), max(last, right)
                names.append(name)
        if names:
            yield first, last, names

    def _occurrences(self, text: str) -> Iterator[tuple[int, str]]:
        if self._pattern is None:
            return
        position = 0
        while match := self._pattern.search(text, position):
            name = match[0]
            yield match.start(), name
            position = match.end() if name in self._inert else match.start() + 1


class _Search:
    """The tokens found in one text."""

    def __init__(self, text: str, own: list[_Run], spaces: list[_Run], markers: frozenset[int]) -> None:
        self.text = text
        self.cuts: list[_Cut] = []
        self._own = own
        self._spaces = spaces
        self._markers = markers
        self._unread: list[tuple[int, int]] = []

    def counts(self, token: SpecialToken, start: int, end: int) -> bool:
        """Whether a token is meant where its name stands."""
        if not token.is_control and token.id not in self._markers:
            return True
        return end <= _run_at(self._own, start)[1]

    def with_spaces(self, start: int, end: int) -> _Run:
        """A stretch of text and the white space that it touches, if that can be swallowed."""
        before, behind = _run_at(self._spaces, start), _run_at(self._spaces, end)
        return (
            min(start, before[0]) if before[1] >= start else start,
            max(end, behind[1]),
        )

    def cut(self, token: SpecialToken, start: int, first: int, last: int) -> _Cut:
        """A token in the text from `first` to `last`."""
        end = start + len(token.text)
        left, right = start, end
        if token.strips_left and start > first:
            run = _run_at(self._spaces, start - 1)
            left = max(run[0], first) if run[1] >= start else start
        if token.strips_right and end < last:
            right = max(end, min(_run_at(self._spaces, end)[1], last))
        return _Cut(left, start, right, token)

    def resolve(self, first: int, last: int, tokens: Sequence[SpecialToken]) -> None:
        """Cut tokens, in their order, out of the text from `first` to `last`, where they may overlap."""
        fragments = [(first, last)]
        found: list[_Cut] = []
        for token in tokens:
            left: list[tuple[int, int]] = []
            for start, end in fragments:
                while (at := self._find(token, start, end)) >= 0:
                    cut = self.cut(token, at, start, end)
                    found.append(cut)
                    if cut.left > start:
                        left.append((start, cut.left))
                    start = cut.end
                if end > start:
                    left.append((start, end))
            fragments = left
        self.cuts += sorted(found)

    def _find(self, token: SpecialToken, start: int, end: int) -> int:
        """Where the token's name stands first and counts, or -1."""
        while (at := self.text.find(token.text, start, end)) >= 0:
            after = at + len(token.text)
            if self.counts(token, at, after):
                return at
            if not token.is_control:  # llama.cpp would read it.
                self._unread.append((at, after))
            start = at + 1
        return -1

    def pieces(self) -> list[Piece]:
        """The tokens, and the text between them."""
        pieces: list[Piece] = []
        unread = sorted(self._unread, reverse=True)
        position = 0
        for cut in self.cuts:
            if cut.left > position:
                pieces.append(self._text(position, cut.left, unread))
            pieces.append(cut.token.id)
            position = cut.end
        if position < len(self.text):
            pieces.append(self._text(position, len(self.text), unread))
        return pieces

    def _text(self, start: int, end: int, unread: list[tuple[int, int]]) -> tuple[str, ...]:
        """The text from `start` to `end`, cut within each name that must not be read."""
        parts: list[str] = []
        while unread and unread[-1][0] < end:
            at, after = unread.pop()
            if start <= at and after <= end:
                parts.append(self.text[start : at + 1])
                start = at + 1
        return (*parts, self.text[start:end]) if end > start else tuple(parts)


def _own_runs(segments: Sequence[Segment]) -> list[_Run]:
    """Start and end of each stretch of own segments."""
    runs: list[_Run] = []
    position = 0
    for segment in segments:
        end = position + len(segment.text)
        if segment.is_own and end > position:
            joins = runs and runs[-1][1] == position
            runs[-1 if joins else len(runs) :] = [(runs[-1][0] if joins else position, end)]
        position = end
    return runs


def _run_at(runs: list[_Run], position: int) -> _Run:
    """The last run that begins at a position or before it."""
    index = bisect_right(runs, position, key=itemgetter(0))
    return runs[index - 1] if index else (-1, -1)


def _ranked(tokens: Iterable[SpecialToken], read: Callable[[str], Sequence[int]]) -> Iterator[SpecialToken]:
    """The tokens in the order in which llama.cpp cuts them out: by length in bytes, the longest first."""
    by_length: dict[int, list[SpecialToken]] = defaultdict(list)
    for token in tokens:
        by_length[len(token.text.encode())].append(token)
    for length in sorted(by_length, reverse=True):
        yield from _ranked_equals(by_length[length], read)


def _ranked_equals(
    tokens: list[SpecialToken], read: Callable[[str], Sequence[int]]
) -> Iterator[SpecialToken]:
    """Tokens of one length. Their order matters only for those that can overlap, and llama.cpp's sorting
    leaves it open, so it is asked."""
    order = TopologicalSorter[int](dict.fromkeys(range(len(tokens)), ()))
    by_start = defaultdict(list)
    for i, token in enumerate(tokens):
        by_start[token.text[0]].append(i)
    for i, token in enumerate(tokens):
        for j, text in _meetings(tokens, i, by_start):
            result = read(text)
            if tokens[j].id in result:
                order.add(i, j)
            elif token.id in result:
                order.add(j, i)
    return (tokens[i] for i in order.static_order())


def _meetings(
    tokens: list[SpecialToken], i: int, by_start: Mapping[str, list[int]]
) -> Iterator[tuple[int, str]]:
    """Texts in which another token has room only where it comes before the `i`-th."""
    token = tokens[i]
    for at, character in enumerate(token.text[1:], 1):
        for j in by_start.get(character, ()):
            if i != j and tokens[j].text.startswith(token.text[at:]):
                yield j, token.text[:at] + tokens[j].text
    if token.strips_left or token.strips_right:
        for j, other in enumerate(tokens):
            if i != j and token.strips_right and _SPACES.match(other.text):
                yield j, token.text + other.text
            if i != j and token.strips_left and _SPACES.match(other.text[-1]):
                yield j, other.text + token.text


def _longest(texts: Collection[str]) -> re.Pattern[str] | None:
    """An expression that matches the longest of the texts at a place."""
    if not texts:
        return None
    try:
        return re.compile(_tree(sorted(texts), 0))
    except RecursionError:  # Hundreds of texts, each the beginning of the next.
        return re.compile("|".join(map(re.escape, sorted(texts, key=len, reverse=True))))


def _tree(texts: list[str], depth: int) -> str:
    """An expression for sorted texts that share their first `depth` characters, without these."""
    ends_here = len(texts[0]) == depth
    rest = texts[1:] if ends_here else texts
    if not rest:
        return ""
    shared = depth + 1
    branches: list[str] = []
    by_next: dict[str, list[str]] = defaultdict(list)
    for text in rest:
        by_next[text[depth]].append(text)
    for group in by_next.values():
        shared = depth + 1
        while len(group[0]) > shared and group[-1].startswith(group[0][: shared + 1]):
            shared += 1
        branches.append(re.escape(group[0][depth:shared]) + _tree(group, shared))
    expression = branches[0] if len(branches) == 1 else "|".join(branches)
    return f"(?:{expression})?" if ends_here else f"(?:{expression})"
