"""Text that knows which of its characters a chat template wrote and which came with the request.

A control token such as `<|im_end|>` means something only where the template wrote it. What users write goes
through whatever a template does with it: strip, split, slices, joins, filters. So the strings that a
template gets are of a class of their own, and everything that makes a string of them keeps, for each
character, where it came from. An ordinary `str` is the template's own: its constants are. Where there is no
telling, the whole result counts as the user's, which costs a template its control tokens there and never
lets a user forge one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self, SupportsIndex

from predictor.engine.special_tokens import Segment

_OWN, _USER = b"\x01", b"\x00"
_RUN = re.compile(rb"\x00+|\x01+")
_SCALARS = (bool, int, float, type(None))


class Traced(str):
    """A string that knows for each character whether the template wrote it.

    Every method gives what `str`'s gives. Templates see these strings, so it has no public name of its own.
    """

    __slots__ = ("_own",)
    _own: bytes  # For each character 1 where the template wrote it, else 0.

    def __new__(cls, text: str, own: bytes) -> Self:
        traced = str.__new__(cls, text)
        traced._own = own
        return traced

    def __str__(self) -> Self:
        return self

    def __reduce__(self) -> Any:
        return Traced, (_plain(self), self._own)

    def __getitem__(self, key: SupportsIndex | slice) -> Traced:
        text = str.__getitem__(self, key)
        if not isinstance(key, slice):
            index = key.__index__()
            key = slice(index, index + 1 or None)
        return Traced(text, self._own[key])

    def __iter__(self) -> Iterator[Traced]:
        for i, character in enumerate(str.__iter__(self)):
            yield Traced(character, self._own[i : i + 1])

    def __add__(self, other: str) -> str:
        if not isinstance(other, str):
            return NotImplemented
        return Traced(str.__add__(self, other), self._own + _origin(other))

    def __radd__(self, other: str) -> str:
        if not isinstance(other, str):
            return NotImplemented
        return Traced(str.__add__(other, self), _origin(other) + self._own)

    def __mul__(self, times: SupportsIndex) -> Traced:
        return Traced(str.__mul__(self, times), self._own * times.__index__())

    __rmul__ = __mul__

    def __format__(self, spec: str) -> str:
        return derived(str.__format__(self, spec), self) if spec else self

    def strip(self, chars: str | None = None, /) -> Traced:
        return self.rstrip(chars).lstrip(chars)

    def lstrip(self, chars: str | None = None, /) -> Traced:
        return self[len(self) - len(str.lstrip(self, chars)) :]

    def rstrip(self, chars: str | None = None, /) -> Traced:
        return self[: len(str.rstrip(self, chars))]

    def removeprefix(self, prefix: str, /) -> Traced:
        return self[len(prefix) :] if self.startswith(prefix) else self

    def removesuffix(self, suffix: str, /) -> Traced:
        return self[: len(self) - len(suffix)] if self.endswith(suffix) else self

    def split(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        return self._pieces(str.split(self, sep, maxsplit), sep)

    def rsplit(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        return self._pieces(str.rsplit(self, sep, maxsplit), sep)

    def _pieces(self, texts: list[str], sep: str | None) -> list[str]:
        pieces: list[str] = []
        start = 0
        for text in texts:
            if sep is None:  # Only white space lies between.
                start = self.find(text, start)
            pieces.append(self[start : start + len(text)])
            start += len(text) + len(sep or "")
        return pieces

    def splitlines(self, keepends: bool = False) -> list[str]:
        pieces: list[str] = []
        start = 0
        for text, whole in zip(str.splitlines(self, keepends), str.splitlines(self, True), strict=True):
            pieces.append(self[start : start + len(text)])
            start += len(whole)
        return pieces

    def partition(self, sep: str, /) -> tuple[str, str, str]:
        return self._parts(str.partition(self, sep))

    def rpartition(self, sep: str, /) -> tuple[str, str, str]:
        return self._parts(str.rpartition(self, sep))

    def _parts(self, texts: tuple[str, str, str]) -> tuple[str, str, str]:
        first, second = len(texts[0]), len(texts[0]) + len(texts[1])
        return self[:first], self[first:second], self[second:]

    def replace(self, old: str, new: str, count: SupportsIndex = -1, /) -> str:
        if old:
            return join(new, self.split(old, count))
        return derived(str.replace(self, old, new, count), self, new)

    def join(self, items: Iterable[str], /) -> str:
        return join(self, items)

    def lower(self) -> str:
        return self._mapped(str.lower(self))

    def upper(self) -> str:
        return self._mapped(str.upper(self))

    def casefold(self) -> str:
        return self._mapped(str.casefold(self))

    def swapcase(self) -> str:
        return self._mapped(str.swapcase(self))

    def title(self) -> str:
        return self._mapped(str.title(self))

    def capitalize(self) -> str:
        return self._mapped(str.capitalize(self))

    def _mapped(self, text: str) -> str:
        # A character may become several and never none, so one length means one for each.
        return Traced(text, self._own) if len(text) == len(self) else derived(text, self)

    def center(self, width: SupportsIndex, fillchar: str = " ", /) -> str:
        return derived(str.center(self, width, fillchar), self, fillchar)

    def ljust(self, width: SupportsIndex, fillchar: str = " ", /) -> str:
        return derived(str.ljust(self, width, fillchar), self, fillchar)

    def rjust(self, width: SupportsIndex, fillchar: str = " ", /) -> str:
        return derived(str.rjust(self, width, fillchar), self, fillchar)

    def zfill(self, width: SupportsIndex, /) -> str:
        return derived(str.zfill(self, width), self)

    def expandtabs(self, tabsize: SupportsIndex = 8) -> str:
        return derived(str.expandtabs(self, tabsize), self)

    def translate(self, table: Any, /) -> str:
        return from_user(str.translate(self, table))

    def format(self, *args: object, **kwargs: object) -> str:
        return from_user(str.format(self, *args, **kwargs))

    def format_map(self, mapping: Any, /) -> str:
        return from_user(str.format_map(self, mapping))

    def __mod__(self, values: Any) -> str:
        return from_user(str.__mod__(self, values))


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered conversation.

    Attributes:
        text: what the model will read.
        segments: the same, cut where the template's text and the user's meet.
    """

    text: str
    segments: tuple[Segment, ...]

    @classmethod
    def of(cls, text: str) -> Prompt:
        """From a text that a template made."""
        own = _origin(text)
        runs = (match.span() for match in _RUN.finditer(own))
        plain = _plain(text)
        return cls(plain, tuple(Segment(plain[start:end], own[start] == 1) for start, end in runs))

    def cut(self, end: int) -> Prompt:
        """The first `end` characters; a negative number counts from the end."""
        return Prompt.of(self._traced()[:end])

    def starts_with(self, token: str) -> bool:
        """Whether it begins with a token that the template wrote."""
        first = self.segments[0] if self.segments else Segment("", True)
        return first.is_own and first.text.startswith(token)

    def _traced(self) -> Traced:
        masks = [(_OWN if segment.is_own else _USER) * len(segment.text) for segment in self.segments]
        return Traced(self.text, b"".join(masks))


def from_user(text: str) -> Traced:
    """A text that came with the request."""
    return Traced(_plain(text), _USER * len(text))


def own(text: str) -> Traced:
    """A text as the template's own, also as a part of what a template gets."""
    return Traced(_plain(text), _OWN * len(text))


def traced(value: Any) -> Any:
    """A copy of a value in which every text is one that came with the request, keys too.

    What is `Traced` already stays as it is.
    """
    if isinstance(value, Traced):
        return value
    if isinstance(value, str):
        return from_user(value)
    if isinstance(value, Mapping):
        return {traced(key): traced(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(traced, value)) if type(value) in (list, tuple) else list(map(traced, value))
    return value


def joined(pieces: Iterable[str]) -> str:
    """The texts one after the other."""
    pieces = list(pieces)
    text = "".join(pieces)
    if set(map(type, pieces)) <= {str}:
        return text
    return Traced(text, b"".join(map(_origin, pieces)))


def join(separator: str, items: Iterable[str]) -> str:
    """`separator.join(items)`."""
    between: list[str] = []
    for item in items:
        if not isinstance(item, str):
            raise TypeError(f"expected str instance, {type(item).__name__} found")
        between += (separator, item)
    return joined(between[1:])


def derived(text: str, *sources: Any) -> str:
    """A text that was made from `sources` in no way known here: the user's unless all of them are the
    template's own."""
    if all(map(_is_own, sources)):
        return text if type(text) is str else _plain(text)
    return from_user(text)


def as_text(value: Any) -> str:
    """`str(value)`."""
    if isinstance(value, str):
        return value
    text = str(value)
    return text if isinstance(value, _SCALARS) or not text else from_user(text)


def _is_own(value: Any) -> bool:
    if isinstance(value, Traced):
        return 0 not in value._own
    return type(value) is str or isinstance(value, _SCALARS)


def _origin(text: str) -> bytes:
    if isinstance(text, Traced):
        return text._own
    # Another class of string, such as Jinja's Markup, was made from who knows what.
    return (_OWN if type(text) is str else _USER) * len(text)


def _plain(text: str) -> str:
    return str.__str__(text) if type(text) is str else "".join((text, ""))
