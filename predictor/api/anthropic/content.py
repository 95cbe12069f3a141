"""Messages of Anthropic's form as those of a conversation.

Source: https://docs.anthropic.com/en/api/messages
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from predictor.api.chat.passed_over import log_passed_over
from predictor.api.chat.sealed import unseal
from predictor.errors import InvalidRequest

Message = dict[str, Any]

# Claude Code puts what it is billed by in front of its system prompt. It is no instruction, and as it
# changes with every request, no prompt would begin like an earlier one.
BILLING = "x-anthropic-billing-header:"

_ROLES = ("user", "assistant", "system")
# Done by Anthropic's own tools, or made for their models: nothing here could read it.
_PASSED_OVER = frozenset({"redacted_thinking", "server_tool_use", "container_upload", "tool_reference"})


def read_messages(system: Any, messages: Any) -> list[Message]:
    """The messages, with the system's in front.

    Args:
        system: a text or a list of text blocks, None where there is none.
        messages: a list of them.

    Raises:
        InvalidRequest: one is malformed, or holds what isn't text.
    """
    others: list[str] = []
    read = [*_system(system), *_messages(messages, others)]
    log_passed_over("content blocks", others)
    return read


def _system(value: Any) -> Iterator[Message]:
    if value is None:
        return
    blocks = [value] if isinstance(value, str) else _blocks(value, "system")
    texts = [
        block if isinstance(block, str) else _text_of(block, "system", i) for i, block in enumerate(blocks)
    ]
    said = [text for text in texts if text and not text.startswith(BILLING)]
    if said:
        yield {"role": "system", "content": "\n".join(said)}


def _messages(value: Any, others: list[str]) -> Iterator[Message]:
    if not isinstance(value, list):
        raise _invalid("messages must be a list", "messages")
    for i, message in enumerate(value):
        where = f"messages[{i}]"
        role = message.get("role") if isinstance(message, Mapping) else None
        if role not in _ROLES:
            raise _invalid(f"{where}.role must be one of {', '.join(_ROLES)}", "messages")
        content = message.get("content")
        if isinstance(content, str):
            yield {"role": role, "content": content}
            continue
        blocks = [
            (f"{where}.content[{k}]", block) for k, block in enumerate(_blocks(content, f"{where}.content"))
        ]
        if role == "assistant":
            yield _assistant(blocks, others)
        else:
            yield from _user(role, blocks, others)


def _assistant(blocks: Sequence[tuple[str, Any]], others: list[str]) -> Message:
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[dict[str, Any]] = []
    for where, block in blocks:
        match block.get("type"):
            case "text":
                texts.append(_string(block, "text", where))
            case "thinking":
                thoughts.append(unseal(block.get("signature")) or _string(block, "thinking", where))
            case "tool_use":
                calls.append(_call(block, where))
            case kind:
                _pass_over(kind, where, others)
    message: Message = {"role": "assistant", "content": "\n".join(texts)}
    if any(thoughts):
        message["reasoning_content"] = "\n".join(filter(None, thoughts))
    return {**message, "tool_calls": calls} if calls else message


def _call(block: Mapping[str, Any], where: str) -> dict[str, Any]:
    given = block.get("input")
    if not isinstance(given, Mapping | None):
        raise _invalid(f"{where}.input must be an object", "messages")
    arguments = json.dumps(given or {}, ensure_ascii=False)
    function = {"name": _string(block, "name", where), "arguments": arguments}
    return {"id": _string(block, "id", where), "type": "function", "function": function}


def _user(role: str, blocks: Sequence[tuple[str, Any]], others: list[str]) -> Iterator[Message]:
    """A message for each result, and one for the texts between two of them."""
    texts: list[str] = []
    for where, block in blocks:
        if block.get("type") != "tool_result":
            texts += _shown(block, where, others)
            continue
        if texts:
            yield {"role": role, "content": "\n".join(texts)}
            texts = []
        yield _result(block, where, others)
    if texts or not blocks:
        yield {"role": role, "content": "\n".join(texts)}


def _result(block: Mapping[str, Any], where: str, others: list[str]) -> Message:
    content = block.get("content")
    if isinstance(content, list):
        inner = _blocks(content, f"{where}.content")
        texts = [
            text for k, part in enumerate(inner) for text in _shown(part, f"{where}.content[{k}]", others)
        ]
        content = "\n".join(texts)
    elif not isinstance(content, str | None):
        raise _invalid(f"{where}.content must be a string or a list of blocks", "messages")
    failed = "the tool failed" if block.get("is_error") is True else ""
    call_id = _string(block, "tool_use_id", where)
    return {"role": "tool", "tool_call_id": call_id, "content": content or failed}


def _shown(block: Mapping[str, Any], where: str, others: list[str]) -> Iterator[str]:
    """The text of a block in a user's message or in a result."""
    match block.get("type"):
        case "text":
            yield _string(block, "text", where)
        case "document":
            yield _document(block, where)
        case "search_result":
            parts = _blocks(block.get("content"), f"{where}.content")
            texts = [_text_of(part, f"{where}.content", k) for k, part in enumerate(parts)]
            heads = [str(block[name]) for name in ("title", "source") if block.get(name)]
            yield "\n".join([*heads, *texts])
        case "image":
            raise _invalid(f"{where} is an image, but this server takes text only", "messages")
        case kind:
            _pass_over(kind, where, others)


def _document(block: Mapping[str, Any], where: str) -> str:
    source = block.get("source")
    kind = source.get("type") if isinstance(source, Mapping) else None
    if not isinstance(source, Mapping) or kind not in ("text", "content"):
        raise _invalid(f"{where} is a document of another kind than text, which can't be read", "messages")
    if kind == "text":
        text = _string(source, "data", f"{where}.source")
    elif isinstance(source.get("content"), str):
        text = source["content"]
    else:
        parts = _blocks(source.get("content"), f"{where}.source.content")
        text = "\n".join(_text_of(part, f"{where}.source.content", k) for k, part in enumerate(parts))
    heads = [str(block[name]) for name in ("title", "context") if block.get(name)]
    return "\n".join([*heads, text])


def _pass_over(kind: Any, where: str, others: list[str]) -> None:
    if kind not in _PASSED_OVER and not str(kind).endswith("_tool_result"):
        raise _invalid(f"{where} is of type {str(kind)[:80]!r}, which this server can't read", "messages")
    others.append(str(kind))


def _blocks(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list) or not all(isinstance(block, Mapping) for block in value):
        raise _invalid(f"{where} must be a string or a list of content blocks", where.partition("[")[0])
    return value


def _text_of(block: Mapping[str, Any], where: str, index: int) -> str:
    place = f"{where}[{index}]"
    if block.get("type", "text") != "text":
        raise _invalid(f"{place} must be of type text", where.partition("[")[0])
    return _string(block, "text", place)


def _string(block: Mapping[str, Any], name: str, where: str) -> str:
    value = block.get(name)
    if not isinstance(value, str):
        raise _invalid(f"{where}.{name} must be a string", where.partition("[")[0])
    return value


def _invalid(message: str, param: str) -> InvalidRequest:
    return InvalidRequest(message, param=param)
