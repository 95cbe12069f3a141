"""How a model writes what isn't plain text: its thoughts, its answer and its calls.

A form is learnt from a template's renderings (`predictor.chat.learning`) or, where that can't be, written by
hand (`predictor.chat.known_forms`). The grammar and the reader are both made from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Pattern = tuple[str | None, ...]
"""Literal texts with holes (None) between them, for ids and counts. White space in literals is flexible."""


@dataclass(frozen=True, slots=True)
class JsonArguments:
    """Arguments as one JSON object."""

    name = "JSON"


@dataclass(frozen=True, slots=True)
class TaggedArguments:
    """Each argument between tags of its own, texts as they are and other values as JSON.

    Attributes:
        key_start: what stands before each key.
        openings: what stands between a key and its value, and whether the value is a text then (None where
            that isn't said).
        value_end: what stands behind each value.
        python: whether lists and objects are written as Python's literals and not as JSON.
    """

    key_start: str
    openings: Mapping[str, bool | None]
    value_end: str
    python: bool = False
    name = "tags"


@dataclass(frozen=True, slots=True)
class PythonArguments:
    """Arguments of a call in Python: `name(key='text', other=1)`."""

    name = "Python"


@dataclass(frozen=True, slots=True)
class QuotedArguments:
    """A JSON-like object with bare keys, and texts between quotes of their own.

    Attributes:
        quote: stands before and behind each text.
    """

    quote: str
    name = "bare keys"


@dataclass(frozen=True, slots=True)
class ElementArguments:
    """Arguments as nested elements, named by their keys.

    Attributes:
        prefix: what stands before each tag's `<`.
    """

    prefix: str
    name = "elements"


Arguments = JsonArguments | TaggedArguments | PythonArguments | QuotedArguments | ElementArguments


@dataclass(frozen=True, slots=True)
class CallForm:
    """How calls are written, from the first mark to the last.

    The whole is: head, name, middle, arguments; and for each further call between, name, middle, arguments;
    then tail.

    Attributes:
        head: before the first name.
        middle: from a name to its arguments.
        between: from a call's arguments to the next name; None where an answer has one call only.
        tail: behind the last arguments.
        arguments: how these are written.
        trigger: the text that begins calls and nothing else.
    """

    head: Pattern
    middle: Pattern
    between: Pattern | None
    tail: Pattern
    arguments: Arguments
    trigger: str

    @property
    def is_bare(self) -> bool:
        """Whether calls begin like any JSON, so that only an answer's very start can be one."""
        return self.trigger.startswith(("{", "[{")) or self.trigger == "["


@dataclass(frozen=True, slots=True)
class ThoughtForm:
    """How thoughts are written.

    Attributes:
        start: before a thought; the prompt may hold it already.
        end: behind it.
    """

    start: str
    end: str


@dataclass(frozen=True, slots=True)
class ContentForm:
    """What stands around the answer's text, both mostly empty.

    Attributes:
        start: before it.
        end: behind it.
        is_certain: whether it stands there in every answer.
    """

    start: str = ""
    end: str = ""
    is_certain: bool = True


@dataclass(frozen=True, slots=True)
class ChannelForm:
    """Answers as messages to named recipients, each with a header of its own.

    Attributes:
        opening: what stands before a further header.
        header_end: what ends a header.
        ends: what ends a message's body.
        call: the header of a call, with the name as its only hole.
        thoughts, texts: headers of messages that are thoughts or text.
        arguments: how the body of a call is written.
        several: whether an answer may have several calls.
        body: how the body of a call is written, where it isn't the arguments alone.
    """

    opening: str
    header_end: str
    ends: tuple[str, ...]
    call: Pattern
    thoughts: tuple[str, ...]
    texts: tuple[str, ...]
    arguments: Arguments
    several: bool
    body: CallForm | None = None


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """Everything that can stand in an answer.

    Attributes:
        thought: None where the model doesn't think in a form of its own.
        content: what stands around text.
        calls: None where the model has no form of its own for them.
        channels: takes the place of the others where answers are messages to recipients.
    """

    thought: ThoughtForm | None = None
    content: ContentForm = field(default_factory=ContentForm)
    calls: CallForm | None = None
    channels: ChannelForm | None = None

    @property
    def thinks(self) -> bool:
        """Whether answers can hold thoughts."""
        return self.thought is not None or bool(self.channels and self.channels.thoughts)


def form_texts(form: AnswerForm) -> tuple[str, ...]:
    """The literal texts of a form."""
    texts = [form.content.start, form.content.end]
    if form.thought is not None:
        texts += [form.thought.start, form.thought.end]
    if form.calls is not None:
        texts += _call_texts(form.calls)
    if form.channels is not None:
        channels = form.channels
        texts += [channels.opening, channels.header_end, *channels.ends, *channels.thoughts, *channels.texts]
        texts += [part for part in channels.call if part]
        texts += _call_texts(channels.body) if channels.body is not None else []
    return tuple(dict.fromkeys(text for text in texts if text))


def _call_texts(form: CallForm) -> list[str]:
    patterns = (form.head, form.middle, form.between or (), form.tail)
    texts = [part for pattern in patterns for part in pattern if part]
    match form.arguments:
        case TaggedArguments(key_start, openings, value_end):
            texts += [key_start, *openings, value_end]
        case QuotedArguments(quote):
            texts.append(quote)
        case ElementArguments(prefix):
            texts.append(prefix)
    return texts
