"""Whether a chat template keeps what users write from passing for a turn of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from predictor.chat.provenance import Prompt
from predictor.chat.template import ChatTemplate
from predictor.engine.special_tokens import Segment
from predictor.errors import InvalidRequest

Tokenize = Callable[[Sequence[Segment]], Sequence[int]]

_WORDS = ("apple", "banana", "cherry")
_ROLES = ("user", "assistant", "user")


def weaknesses(template: ChatTemplate, tokenize: Tokenize) -> Iterator[str]:
    """What lets users forge turns, or costs the template its own control tokens; one sentence each.

    Args:
        template: to try on a conversation of three short messages.
        tokenize: gives the tokens of a prompt by its segments.
    """
    prompt = rendered_probe(template)
    if prompt is None:
        yield "it refuses a conversation of a user and an assistant, so that nothing is known of its turns"
        return
    gaps = list(_gaps(prompt))
    if len(gaps) < len(_WORDS) - 1 or not all(_holds_token(gap, tokenize) for gap in gaps):
        yield (
            "it separates turns by plain text and not by control tokens of this model's vocabulary, so that "
            "whoever writes a message can imitate a turn of another role"
        )
    if tokenize(prompt.segments) != tokenize([Segment(prompt.text, True)]):
        yield (
            "it makes control tokens out of what messages hold, and these are read as text; where all who "
            "write messages are trusted, start the server with --trust-message-tokens"
        )


def own_text(template: ChatTemplate) -> str:
    """All that a template is known to write, also what it puts together while it renders."""
    prompt = rendered_probe(template)
    segments = prompt.segments if prompt else ()
    return "\n".join([template.source, *(segment.text for segment in segments if segment.is_own)])


def rendered_probe(template: ChatTemplate) -> Prompt | None:
    """A conversation of three messages, None where the template refuses it."""
    messages = [{"role": role, "content": word} for role, word in zip(_ROLES, _WORDS, strict=True)]
    without_tools: tuple[list[Any] | None, ...] = (None, [])
    for tools in without_tools:
        try:
            return template.render(messages, tools=tools)
        except InvalidRequest:
            continue
    return None


def _gaps(prompt: Prompt) -> Iterator[str]:
    """What the template wrote between the messages."""
    between: list[str] | None = None
    for segment in prompt.segments:
        if not segment.is_own and any(word in segment.text for word in _WORDS):
            if between is not None:
                yield "".join(between)
            between = []
        elif between is not None:
            between.append(segment.text)


def _holds_token(text: str, tokenize: Tokenize) -> bool:
    return tokenize([Segment(text, True)]) != tokenize([Segment(text, False)])
