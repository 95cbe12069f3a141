"""What an answer consists of, told while it streams; every protocol is written from these."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Thought:
    """The next part of what the model thinks before it answers."""

    text: str


@dataclass(frozen=True, slots=True)
class Text:
    """The next part of the answer itself, outside of thoughts and calls."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStarted:
    """A call has begun; `index` counts the calls of an answer from 0."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class ArgumentsPart:
    """The next part of the JSON text of a call's arguments."""

    index: int
    text: str


Event = Thought | Text | CallStarted | ArgumentsPart
