"""Functions that the model may call: reading them from a request, and showing them to the model.

The model sees them, and writes its calls, in the form of Nous Research's Hermes and of Qwen:
`<tool_call>{"name": ..., "arguments": {...}}</tool_call>`. A template that has this form itself shows the
tools. For all others they are put into the system message, and calls and their results into the texts of
messages.
Source: https://github.com/NousResearch/Hermes-Function-Calling
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from predictor.errors import InvalidRequest

CALL_START = "<tool_call>"
CALL_END = "</tool_call>"
MAX_TOOLS = 128

Message = Mapping[str, Any]

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_INSTRUCTIONS = """# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{tools}
</tools>

For each function call, return a json object with function name and arguments within \
<tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call.

    Attributes:
        name: letters, digits, `_` and `-`.
        parameters: JSON schema of its arguments, which are one JSON object.
        strict: whether every keyword of the schema must be enforced.
        definition: as it came in the request.
    """

    name: str
    parameters: Mapping[str, Any]
    strict: bool
    definition: Mapping[str, Any]


def read_tools(value: Any) -> list[Tool]:
    """The tools of a request.

    Raises:
        InvalidRequest: it isn't a list of functions with different names.
    """
    if value is None:
        return []
    if not isinstance(value, list):
        raise _invalid("tools must be a list of objects")
    if len(value) > MAX_TOOLS:
        raise _invalid(f"there are {len(value)} tools, but at most {MAX_TOOLS} are taken")
    tools = [_read_tool(item, f"tools[{i}]") for i, item in enumerate(value)]
    if len({tool.name for tool in tools}) < len(tools):
        raise _invalid("two tools have the same name")
    return tools


def _read_tool(item: Any, where: str) -> Tool:
    function = item.get("function") if isinstance(item, Mapping) else None
    if not isinstance(function, Mapping) or item.get("type") != "function":
        raise _invalid(f'{where} must be {{"type": "function", "function": {{"name": ...}}}}')
    name = function.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise _invalid(f"{where}.function.name must be 1 to 64 letters, digits, _ and -")
    parameters = function.get("parameters")
    if parameters is None:
        parameters = {"type": "object", "properties": {}, "additionalProperties": False}
    if not isinstance(parameters, Mapping) or parameters.get("type", "object") != "object":
        raise _invalid(f"{where}.function.parameters must be a JSON schema of type object")
    strict = function.get("strict")
    if strict not in (None, True, False):
        raise _invalid(f"{where}.function.strict must be true or false")
    return Tool(name, {"type": "object", **parameters}, strict is True, item)


def shows_tools(template_source: str) -> bool:
    """Whether a chat template itself shows tools and calls in the form that is read here."""
    has_form = "tools" in template_source and CALL_START in template_source
    # Qwen3-Coder has the same marker, but with XML inside.
    return has_form and "<function=" not in template_source


def for_template(messages: Sequence[Message], tools: Sequence[Tool], *, shows_tools: bool) -> list[Message]:
    """The messages as a chat template takes them.

    Args:
        messages: OpenAI's, with text contents; assistant messages may have `tool_calls`, and those of role
            `tool` have results.
        tools: what the model may call now.
        shows_tools: whether the template itself shows tools, calls and results.

    Raises:
        InvalidRequest: `tool_calls` is malformed.
    """
    if shows_tools:
        return [_with_parsed_calls(message, i) for i, message in enumerate(messages)]
    plain = _without_tool_messages(messages)
    return _with_instructions(plain, tools) if tools else plain


def _calls(message: Message, index: int) -> list[dict[str, Any]]:
    """The name and arguments of each call in an assistant message, the arguments parsed."""
    where = f"messages[{index}].tool_calls"
    calls = message["tool_calls"]
    if not isinstance(calls, list):
        raise InvalidRequest(f"{where} must be a list", param="messages")
    parsed = []
    for call in calls:
        function = call.get("function") if isinstance(call, Mapping) else None
        try:
            name, arguments = function["name"], function["arguments"]  # type: ignore[index]
            arguments = json.loads(arguments or "{}") if isinstance(arguments, str) else arguments
        except (TypeError, KeyError, ValueError, RecursionError):
            raise InvalidRequest(
                f"{where} must hold function calls, each with a name and with arguments as a JSON text",
                param="messages",
            ) from None
        parsed.append({"name": name, "arguments": arguments})
    return parsed


def _with_parsed_calls(message: Message, index: int) -> Message:
    """Templates write the arguments as JSON themselves, so they need the value and not its text."""
    if not message.get("tool_calls"):
        return message
    calls = _calls(message, index)
    given = message["tool_calls"]
    return {
        **message,
        "tool_calls": [{**old, "function": new} for old, new in zip(given, calls, strict=True)],
    }


def _without_tool_messages(messages: Sequence[Message]) -> list[Message]:
    """The messages with calls and results in their texts."""
    plain: list[Message] = []
    follows_result = False
    for index, message in enumerate(messages):
        is_result = message["role"] == "tool"
        if message.get("tool_calls"):
            plain.append({"role": message["role"], "content": _calls_text(message, index)})
        elif is_result:
            result = f"<tool_response>\n{message['content']}\n</tool_response>"
            if follows_result:
                result = f"{plain.pop()['content']}\n{result}"
            plain.append({"role": "user", "content": result})
        else:
            plain.append(message)
        follows_result = is_result
    return plain


def _calls_text(message: Message, index: int) -> str:
    parts = [
        f"{CALL_START}\n{json.dumps(call, ensure_ascii=False)}\n{CALL_END}" for call in _calls(message, index)
    ]
    content = message.get("content")
    return "\n".join([content, *parts] if content else parts)


def _with_instructions(messages: list[Message], tools: Sequence[Tool]) -> list[Message]:
    lines = "\n".join(json.dumps(tool.definition, ensure_ascii=False) for tool in tools)
    text = _INSTRUCTIONS.format(tools=lines)
    first = messages[0]
    if first["role"] in ("system", "developer"):
        return [{**first, "content": f"{first['content']}\n\n{text}"}, *messages[1:]]
    return [{"role": "system", "content": text}, *messages]


def _invalid(message: str) -> InvalidRequest:
    return InvalidRequest(message, param="tools")
