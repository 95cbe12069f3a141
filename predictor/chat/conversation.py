"""Messages as clients send them, brought into one form: contents as text, calls parsed, thoughts apart.

Sources of the fields: https://platform.openai.com/docs/api-reference/chat; `reasoning_content` is DeepSeek's
and llama-server's, `reasoning` vLLM's newer name for it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from predictor.chat.partial_json import complete_object
from predictor.errors import InvalidRequest

_THOUGHT_FIELDS = ("reasoning_content", "reasoning", "thinking")
_KNOWN = frozenset({"role", "content", "tool_calls", "refusal", *_THOUGHT_FIELDS})


@dataclass(frozen=True, slots=True)
class Call:
    """A call that the model made earlier.

    Attributes:
        name: of the function.
        arguments: parsed; as far as it could be told where the text was cut off.
        id: as the client sent it, "" where it sent none.
    """

    name: str
    arguments: Mapping[str, Any]
    id: str = ""


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation.

    Attributes:
        role: `system`, `developer`, `user`, `assistant`, `tool` or what else a template knows.
        content: its text, maybe empty.
        thought: what the model thought before it, maybe empty.
        calls: what the model called with it.
        extra: further fields for the template, such as `name` and `tool_call_id`.
    """

    role: str
    content: str = ""
    thought: str = ""
    calls: tuple[Call, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)


def read_messages(messages: Sequence[Any]) -> list[Message]:
    """The messages of a request.

    A result that doesn't name its function gets the name from the call that it answers.

    Raises:
        InvalidRequest: a message is malformed.
    """
    read: list[Message] = []
    names: dict[str, str] = {}
    for index, item in enumerate(messages):
        message = _read_message(item, f"messages[{index}]")
        names.update((call.id, call.name) for call in message.calls if call.id)
        answered = message.extra.get("tool_call_id")
        if message.role == "tool" and "name" not in message.extra and answered in names:
            message = replace(message, extra={**message.extra, "name": names[answered]})
        read.append(message)
    return read


def _read_message(item: Any, where: str) -> Message:
    if not isinstance(item, Mapping):
        raise _invalid(f"{where} must be an object with role and content")
    role = item.get("role")
    if not isinstance(role, str) or not role:
        raise _invalid(f"{where}.role must be a string such as user, assistant or system")
    text, thought = _content(item, role, where)
    for name in _THOUGHT_FIELDS:
        given = item.get(name)
        if isinstance(given, str) and not thought:
            thought = given
        elif given is not None and not isinstance(given, str | Mapping | list):
            raise _invalid(f"{where}.{name} must be a string")
    calls = tuple(_calls(item["tool_calls"], f"{where}.tool_calls")) if item.get("tool_calls") else ()
    extra = {key: value for key, value in item.items() if key not in _KNOWN and value is not None}
    return Message(role, text, thought if role == "assistant" else "", calls, extra)


def _content(item: Mapping[str, Any], role: str, where: str) -> tuple[str, str]:
    """The text of a message and the thoughts among its parts."""
    content = item.get("content")
    if content is None or content == []:
        refusal = item.get("refusal")
        if role not in ("assistant", "tool", "function") and content is None:
            raise _invalid(f"{where}.content is missing; only those of assistants and tools may be")
        return (refusal if isinstance(refusal, str) else ""), ""
    if isinstance(content, str):
        return content, ""
    if not isinstance(content, list):
        raise _invalid(f"{where}.content must be a string or a list of text parts")
    texts: list[str] = []
    thoughts: list[str] = []
    for i, part in enumerate(content):
        text, is_thought = _part(part, f"{where}.content[{i}]")
        (thoughts if is_thought else texts).append(text)
    return "\n".join(texts), "\n".join(thoughts)


_TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
_THOUGHT_PARTS = {"thinking": "thinking", "reasoning": "text"}


def _part(part: Any, where: str) -> tuple[str, bool]:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind is None:
        raise _invalid(f'{where} must be an object such as {{"type": "text", "text": "..."}}')
    name = _TEXT_PARTS.get(kind) or _THOUGHT_PARTS.get(kind)
    if name is None:
        raise _invalid(f"{where} is of type {kind!r}, but this server takes text only")
    text = part.get(name)
    if not isinstance(text, str):
        raise _invalid(f"{where}.{name} must be a string")
    return text, kind in _THOUGHT_PARTS


def _calls(calls: Any, where: str) -> list[Call]:
    if not isinstance(calls, list):
        raise _invalid(f"{where} must be a list")
    return [_call(call, f"{where}[{i}]") for i, call in enumerate(calls)]


def _call(call: Any, where: str) -> Call:
    function = call.get("function") if isinstance(call, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(name, str) or not name:
        raise _invalid(
            f'{where} must be {{"type": "function", "function": {{"name": ..., "arguments": ...}}}}'
        )
    given = call.get("id")
    return Call(name, _arguments(function.get("arguments"), where), given if isinstance(given, str) else "")


def _arguments(value: Any, where: str) -> Mapping[str, Any]:
    if value is None or value == "":
        return {}
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            # What an answer that ended with `length` says: an agent sends it back as it came.
            value = complete_object(value)
    if not isinstance(value, Mapping):
        raise _invalid(f"{where}.function.arguments must be the JSON text of an object")
    return value


def _invalid(message: str) -> InvalidRequest:
    return InvalidRequest(message, param="messages")
