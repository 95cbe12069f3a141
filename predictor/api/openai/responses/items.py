"""A response's input as the messages of a conversation.

Source: https://platform.openai.com/docs/api-reference/responses/create#responses_create-input
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from predictor.api.chat.passed_over import log_passed_over
from predictor.api.chat.sealed import unseal
from predictor.api.openai.responses.tools import INPUT, ToolName
from predictor.errors import InvalidRequest

Message = dict[str, Any]
Item = Mapping[str, Any]

_ROLES = ("user", "assistant", "system", "developer")
_TEXT_PARTS = {"input_text": "text", "output_text": "text", "text": "text", "refusal": "refusal"}
# What OpenAI's own tools did: their results were for its models, and say nothing without them.
_PASSED_OVER = frozenset(
    {
        *("web_search_call", "file_search_call", "code_interpreter_call", "image_generation_call"),
        *("computer_call", "computer_call_output", "mcp_list_tools", "mcp_call", "mcp_approval_request"),
        *("mcp_approval_response", "tool_search_call", "tool_search_output", "program", "program_output"),
        *("configuration_update", "compaction_trigger"),
    }
)


def read_input(value: Any, instructions: str | None) -> tuple[list[Message], list[Any]]:
    """The messages, and the tools that items bring along.

    Args:
        value: a text or a list of items.
        instructions: what the system says first.

    Raises:
        InvalidRequest: an item is malformed, or holds what isn't there to be read.
    """
    messages: list[Message] = [{"role": "system", "content": instructions}] if instructions else []
    if isinstance(value, str):
        return [*messages, {"role": "user", "content": value}], []
    if not isinstance(value, list):
        raise _invalid("input must be a text or a list of items")
    reader = _ItemReader(messages)
    for i, item in enumerate(value):
        reader.read(item, f"input[{i}]")
    log_passed_over("items", reader.others)
    return reader.messages, reader.tools


class _ItemReader:
    """Gathers an assistant's items, which follow each other, in one message."""

    def __init__(self, messages: list[Message]) -> None:
        self.messages = messages
        self.tools: list[Any] = []
        self.others: list[str] = []
        self._turn: Message | None = None

    def read(self, item: Any, where: str) -> None:
        if not isinstance(item, Mapping):
            raise _invalid(f"{where} must be an object")
        kind = item.get("type") or ("message" if "role" in item else None)
        if not isinstance(kind, str):
            raise _invalid(f"{where} has no type")
        if kind in _PASSED_OVER:
            self.others.append(kind)
            return
        read = _READERS.get(kind)
        if read is None:
            raise _invalid(f"{where} is of type {kind[:80]!r}, which this server can't read: leave it out")
        read(self, item, where)

    def message(self, item: Item, where: str) -> None:
        role = item.get("role")
        if role not in _ROLES:
            raise _invalid(f"{where}.role must be one of {', '.join(_ROLES)}")
        text = _text(item.get("content"), f"{where}.content")
        if role == "assistant":
            self._of_assistant(lambda turn: turn["content"] or "tool_calls" in turn)["content"] = text
        else:
            self._add({"role": role, "content": text})

    def reasoning(self, item: Item, where: str) -> None:
        thought = unseal(item.get("encrypted_content"))
        for name in ("content", "summary"):
            parts = item.get(name)
            if not thought and isinstance(parts, list):
                texts = (part.get("text") for part in parts if isinstance(part, Mapping))
                thought = "\n".join(text for text in texts if isinstance(text, str))
        if thought:
            turn = self._of_assistant(lambda turn: len(turn) > 2 or turn["content"])
            turn["reasoning_content"] = thought

    def function_call(self, item: Item, where: str) -> None:
        arguments = item.get("arguments")
        if arguments is not None and not isinstance(arguments, str):
            raise _invalid(f"{where}.arguments must be the JSON text of an object")
        self._call(item, where, arguments or "{}")

    def custom_tool_call(self, item: Item, where: str) -> None:
        text = item.get("input")
        if not isinstance(text, str):
            raise _invalid(f"{where}.input must be a string")
        self._call(item, where, json.dumps({INPUT: text}, ensure_ascii=False))

    def own_call(self, item: Item, where: str) -> None:
        """A call of a tool that OpenAI's models know by its type, such as `local_shell_call`."""
        name = str(item.get("type")).removesuffix("_call")
        arguments = item.get("action", item.get("operation"))
        self._call({**item, "name": name}, where, json.dumps(arguments if arguments is not None else {}))

    def output(self, item: Item, where: str) -> None:
        output = item.get("output")
        call_id = item.get("call_id") or item.get("id")
        if not isinstance(call_id, str):
            raise _invalid(f"{where}.call_id is missing")
        text = _output_text(output, f"{where}.output")
        self._add({"role": "tool", "tool_call_id": call_id, "content": text})

    def additional_tools(self, item: Item, where: str) -> None:
        tools = item.get("tools")
        if not isinstance(tools, list):
            raise _invalid(f"{where}.tools must be a list")
        self.tools += tools

    def stored(self, item: Item, where: str) -> None:
        raise _invalid(f"{where}: this server stores nothing, so send what it refers to")

    def compacted(self, item: Item, where: str) -> None:
        raise _invalid(
            f"{where} is a summary that only the server that made it can read: send the conversation itself"
        )

    def _call(self, item: Item, where: str, arguments: str) -> None:
        name, call_id = item.get("name"), item.get("call_id")
        if not isinstance(name, str) or not name:
            raise _invalid(f"{where}.name is missing")
        if not isinstance(call_id, str):
            raise _invalid(f"{where}.call_id is missing")
        namespace = item.get("namespace")
        called = ToolName("function", name, namespace if isinstance(namespace, str) else None).for_model
        function = {"name": called, "arguments": arguments}
        call = {"id": call_id, "type": "function", "function": function}
        self._of_assistant(lambda turn: False).setdefault("tool_calls", []).append(call)

    def _of_assistant(self, is_full: Callable[[Message], Any]) -> Message:
        """The assistant's message, a new one where the last has what is to come."""
        if self._turn is None or is_full(self._turn):
            turn = {"role": "assistant", "content": ""}
            self.messages.append(turn)
            self._turn = turn
        return self._turn

    def _add(self, message: Message) -> None:
        self._turn = None
        self.messages.append(message)


_READERS: Mapping[str, Callable[[_ItemReader, Item, str], None]] = {
    "message": _ItemReader.message,
    "reasoning": _ItemReader.reasoning,
    "function_call": _ItemReader.function_call,
    "custom_tool_call": _ItemReader.custom_tool_call,
    **dict.fromkeys(("local_shell_call", "shell_call", "apply_patch_call"), _ItemReader.own_call),
    **dict.fromkeys(
        (
            *("function_call_output", "custom_tool_call_output", "local_shell_call_output"),
            *("shell_call_output", "apply_patch_call_output"),
        ),
        _ItemReader.output,
    ),
    "additional_tools": _ItemReader.additional_tools,
    "item_reference": _ItemReader.stored,
    "compaction": _ItemReader.compacted,
}


def _text(content: Any, where: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise _invalid(f"{where} must be a string or a list of text parts")
    return "\n".join(_part(part, f"{where}[{i}]") for i, part in enumerate(content))


def _part(part: Any, where: str) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if not isinstance(kind, str):
        raise _invalid(f'{where} must be an object such as {{"type": "input_text", "text": "..."}}')
    if kind not in _TEXT_PARTS:
        raise _invalid(f"{where} is of type {kind[:80]!r}, but this server takes text only")
    text = part.get(_TEXT_PARTS[kind])
    if not isinstance(text, str):
        raise _invalid(f"{where}.{_TEXT_PARTS[kind]} must be a string")
    return text


def _output_text(output: Any, where: str) -> str:
    """What a tool gave, which may be parts of a text or the fields of a shell's."""
    if output is None:
        return ""
    is_parts = isinstance(output, list) and all(
        isinstance(part, Mapping) and isinstance(part.get("type"), str) for part in output
    )
    if isinstance(output, str) or is_parts:
        return _text(output, where)
    return json.dumps(output, ensure_ascii=False)


def _invalid(message: str) -> InvalidRequest:
    return InvalidRequest(message, param="input")
