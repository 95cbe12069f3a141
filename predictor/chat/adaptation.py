"""Conversations written as a template takes them.

What a template refuses or drops is said in another way, as llama-server and vLLM do: `developer` as
`system`, a system message in the first user message, neighbours of one role as one message.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from predictor.chat.abilities import Abilities
from predictor.chat.conversation import Call, Message
from predictor.chat.provenance import from_user

_BETWEEN = "\n\n"
_ID_LENGTH = 9  # of Mistral's ids

WriteCalls = Callable[[Sequence[Call]], str]


def adapt(messages: Sequence[Message], abilities: Abilities, write_calls: WriteCalls) -> list[Message]:
    """The messages with what the template lacks said in another way.

    Args:
        messages: of the request.
        abilities: of the template.
        write_calls: the text of calls, for templates that don't show those of earlier answers.
    """
    adapted = list(messages)
    if not abilities.developer:
        adapted = [_as_system(message) for message in adapted]
    if not abilities.empty_answers:
        adapted = [message for message in adapted if not _says_nothing(message)]
    if not abilities.shows_calls:
        adapted = _calls_as_text(adapted, write_calls)
    elif not abilities.several_calls:
        adapted = _one_call_each(adapted)
    if abilities.shows_calls and not abilities.call_with_text:
        adapted = [part for message in adapted for part in _text_before_calls(message)]
    if not abilities.shows_results:
        adapted = _results_as_user(adapted)
    if not abilities.several_system:
        adapted = _one_system(adapted)
    if not abilities.late_system:
        adapted = _early_system(adapted)
    if not abilities.system:
        adapted = _system_in_user(adapted)
    if not abilities.repeated_roles:
        adapted = _in_turns(adapted)
    if not abilities.any_start and _first_turn(adapted) == "assistant":
        at = next(i for i, message in enumerate(adapted) if message.role == "assistant")
        adapted.insert(at, Message("user"))
    return adapted


def _as_system(message: Message) -> Message:
    return replace(message, role="system") if message.role == "developer" else message


def _calls_as_text(messages: Sequence[Message], write_calls: WriteCalls) -> list[Message]:
    adapted = []
    for message in messages:
        if message.calls:
            before = from_user(f"{message.content}\n") if message.content else ""
            message = replace(message, content=before + write_calls(message.calls), calls=())
        adapted.append(message)
    return adapted


def _one_call_each(messages: Sequence[Message]) -> list[Message]:
    """A message for each call, each before its result."""
    adapted: list[Message] = []
    waiting: list[Message] = []
    for message in messages:
        if message.role == "tool" and waiting:
            answered = message.extra.get("tool_call_id")
            at = next((i for i, call in enumerate(waiting) if call.calls[0].id == answered), 0)
            adapted += [waiting.pop(at), message]
            continue
        adapted += waiting
        waiting = []
        if len(message.calls) <= 1:
            adapted.append(message)
            continue
        first, *rest = message.calls
        others = [Message(message.role, calls=(call,), extra=message.extra) for call in rest]
        waiting = [replace(message, calls=(first,)), *others]
    return adapted + waiting


def _says_nothing(message: Message) -> bool:
    return message.role == "assistant" and not (message.content or message.calls or message.thought)


def _text_before_calls(message: Message) -> list[Message]:
    """A message's text and its calls as two messages."""
    if not message.content or not message.calls:
        return [message]
    return [replace(message, calls=()), replace(message, content="", thought="")]


def _results_as_user(messages: Sequence[Message]) -> list[Message]:
    """Results in the user's words, those that follow each other in one message."""
    adapted: list[Message] = []
    for role, group in groupby(messages, key=lambda message: message.role):
        if role != "tool":
            adapted += group
            continue
        parts = (f"<tool_response>\n{message.content}\n</tool_response>" for message in group)
        adapted.append(Message("user", "\n".join(parts)))
    return adapted


def _one_system(messages: Sequence[Message]) -> list[Message]:
    """System messages at the start as one."""
    start = _system_end(messages)
    return [*_in_turns(messages[:start]), *messages[start:]]


def _early_system(messages: Sequence[Message]) -> list[Message]:
    """System messages behind the start are said in the user's turns."""
    start = _system_end(messages)
    later = [replace(m, role="user") if m.role == "system" else m for m in messages[start:]]
    return [*messages[:start], *later]


def _system_end(messages: Sequence[Message]) -> int:
    """How many of the first messages are the system's."""
    return next((i for i, message in enumerate(messages) if message.role != "system"), len(messages))


def _system_in_user(messages: Sequence[Message]) -> list[Message]:
    """The system's words at the start of the first user message."""
    system = [message.content for message in messages if message.role == "system"]
    rest = [message for message in messages if message.role != "system"]
    if not system:
        return rest
    for i, message in enumerate(rest):
        if message.role == "user":
            rest[i] = replace(message, content=_BETWEEN.join([*system, message.content]))
            return rest
    return [Message("user", _BETWEEN.join(system)), *rest]


def _in_turns(messages: Sequence[Message]) -> list[Message]:
    """The messages with neighbours of one role joined, but no call and no result with another message."""
    groups: list[list[Message]] = []
    for message in messages:
        last = groups[-1][-1] if groups else None
        joins = last is not None and last.role == message.role and last.role != "tool"
        if joins and last is not None and not last.calls:
            groups[-1].append(message)
        else:
            groups.append([message])
    return [_joined(group) for group in groups]


def _joined(group: Sequence[Message]) -> Message:
    if len(group) == 1:
        return group[0]
    contents = [message.content for message in group if message.content]
    thoughts = [message.thought for message in group if message.thought]
    return replace(
        group[-1], content=_BETWEEN.join(contents), thought=_BETWEEN.join(thoughts), extra=group[0].extra
    )


def _first_turn(messages: Sequence[Message]) -> str | None:
    return next((message.role for message in messages if message.role != "system"), None)


def for_template(messages: Sequence[Message], abilities: Abilities) -> list[dict[str, Any]]:
    """The messages in the fields that the template reads."""
    return [_fields(message, abilities) for message in messages]


def _fields(message: Message, abilities: Abilities) -> dict[str, Any]:
    content: Any = message.content
    thought = message.thought
    if message.calls:
        if thought and content and not abilities.thought_with_text:
            thought, content = f"{thought}{_BETWEEN}{content}", ""
        if not content and abilities.null_content:
            content = None
    fields: dict[str, Any] = {**message.extra, "role": message.role, "content": content}
    if thought:
        fields |= dict.fromkeys(abilities.thought_fields, thought)
    if abilities.thought_parts and thought:
        parts = [{"type": "thinking", "thinking": thought}]
        fields["content"] = [*parts, {"type": "text", "text": content}] if content else parts
    elif abilities.parts and content is not None:
        fields["content"] = [{"type": "text", "text": content}]
    if message.calls:
        fields["tool_calls"] = [_call(call, i, abilities) for i, call in enumerate(message.calls)]
    if abilities.short_ids and "tool_call_id" in fields:
        fields["tool_call_id"] = _short(str(fields["tool_call_id"]))
    return fields


def _call(call: Call, index: int, abilities: Abilities) -> dict[str, Any]:
    arguments: Any = call.arguments
    if abilities.arguments_as_text:
        arguments = json.dumps(arguments, ensure_ascii=False)
    call_id = call.id or f"call_{index}"
    return {
        "id": _short(call_id) if abilities.short_ids else call_id,
        "type": "function",
        "function": {"name": call.name, "arguments": arguments},
    }


def _short(call_id: str) -> str:
    """An id of nine letters and digits, always the same for one id."""
    if len(call_id) == _ID_LENGTH and call_id.isascii() and call_id.isalnum():
        return call_id
    return hashlib.sha256(call_id.encode("utf-8", "replace")).hexdigest()[:_ID_LENGTH]


def with_instructions(messages: Sequence[Message], text: str) -> list[Message]:
    """The messages with `text` at the end of the first system message, or in one of its own."""
    if messages and messages[0].role in ("system", "developer"):
        first: Mapping[str, Any] = {"content": f"{messages[0].content}{_BETWEEN}{text}"}
        return [replace(messages[0], **first), *messages[1:]]
    return [Message("system", text), *messages]
