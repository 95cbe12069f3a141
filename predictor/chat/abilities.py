"""Which conversations a template takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

EFFORTS = ("minimal", "low", "medium", "high", "xhigh", "max")
"""From little to much."""
EFFORT_VARIABLES = ("reasoning_effort", "thinking_effort", "reasoning_strength")


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a template takes as it is; what it doesn't is adapted (`predictor.chat.adaptation`).

    Attributes:
        system: a system message at the start.
        several_system: two system messages at the start.
        late_system: a second system message later on.
        developer: a message of role developer at the start.
        repeated_roles: two messages of one role in a row.
        any_start: a conversation that begins with an answer.
        parts: contents must be lists of parts, as texts would be lost.
        no_tools_list: where there are no tools, it wants an empty list.
        shows_tools: tools come to the model's eyes.
        shows_calls: the model's calls come back in the next prompt.
        shows_results: so do their results.
        several_calls: several calls in one message.
        empty_answers: an answer without text or calls.
        text_with_call: text beside a call comes back.
        call_with_text: so does the call.
        thought_with_text: a thought beside a text and a call is taken.
        arguments_as_text: arguments must be JSON text and not an object.
        null_content: the content beside calls must be null.
        short_ids: ids of calls must be nine letters and digits.
        thought_fields: fields of a message that take a thought; () where none does.
        thought_parts: a thought is taken as a part of the content.
        efforts: how much a model may be told to think, from little to much; () where any word is taken.
        variables: further variables without which the template fails.
    """

    system: bool = True
    several_system: bool = True
    late_system: bool = True
    developer: bool = True
    repeated_roles: bool = True
    any_start: bool = True
    parts: bool = False
    no_tools_list: bool = False
    shows_tools: bool = False
    shows_calls: bool = False
    shows_results: bool = False
    several_calls: bool = True
    empty_answers: bool = True
    text_with_call: bool = True
    call_with_text: bool = True
    thought_with_text: bool = True
    arguments_as_text: bool = False
    null_content: bool = False
    short_ids: bool = False
    thought_fields: tuple[str, ...] = ()
    thought_parts: bool = False
    efforts: tuple[str, ...] = ()
    variables: Mapping[str, Any] = field(default_factory=dict)


def nearest_effort(effort: str, efforts: Sequence[str]) -> str:
    """The effort among those that a template takes, the higher one of two that are as near."""
    if not efforts or effort not in EFFORTS:
        return effort
    wanted = EFFORTS.index(effort)
    return min(efforts, key=lambda other: (abs(EFFORTS.index(other) - wanted), -EFFORTS.index(other)))
