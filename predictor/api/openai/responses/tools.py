"""Tools of the Responses API: functions, custom tools with free text, and namespaces of both.

To the model all are functions. A custom tool's text is the member `input` of its only argument; tools of a
namespace have its name in front of theirs.
Source: https://platform.openai.com/docs/guides/function-calling
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from predictor.api.chat.passed_over import log_passed_over
from predictor.api.chat.wishes import CHOICE, Choice, tool_named
from predictor.chat.tools import Tool, read_tools
from predictor.errors import InvalidRequest

INPUT = "input"
"""The member of a custom tool's argument that holds its text."""

Kind = Literal["function", "custom"]


@dataclass(frozen=True, slots=True)
class ToolName:
    """What a client calls a tool.

    Attributes:
        kind: whether it takes JSON or free text.
        name: its own.
        namespace: that it is in, if any.
    """

    kind: Kind
    name: str
    namespace: str | None = None

    @property
    def for_model(self) -> str:
        """What the model calls it."""
        return self.name if self.namespace is None else f"{self.namespace}.{self.name}"


@dataclass(frozen=True, slots=True)
class ResponseTools:
    """The tools of a request.

    Attributes:
        tools: as the model sees them.
        names: what the client calls them, by the model's names.
        not_enforced: where a grammar is that calls aren't held to.
    """

    tools: Sequence[Tool] = ()
    names: Mapping[str, ToolName] = field(default_factory=dict)
    not_enforced: tuple[str, ...] = ()

    def name(self, for_model: str) -> ToolName:
        """What the client calls a tool that the model has called."""
        return self.names.get(for_model, ToolName("function", for_model))

    def only(self, allowed: Sequence[str]) -> ResponseTools:
        """Those of the tools that have these names."""
        return ResponseTools(
            [tool for tool in self.tools if tool.name in allowed], self.names, self.not_enforced
        )


def read_response_tools(value: Any) -> ResponseTools:
    """The tools of a request; those that only OpenAI can run are passed over.

    Raises:
        InvalidRequest: one is malformed, or two have the same name.
    """
    if value is not None and not isinstance(value, list):
        raise _invalid("tools must be a list of objects")
    names: dict[str, ToolName] = {}
    definitions: list[dict[str, Any]] = []
    not_enforced: list[str] = []
    others: list[str] = []
    for where, item, namespace in _flat(value or []):
        kind = item.get("type")
        if kind not in ("function", "custom"):
            others.append(str(kind))
            continue
        function = _custom(item) if kind == "custom" else _function(item)
        name = ToolName(kind, str(function.get("name")), namespace)
        names[name.for_model] = name
        definitions.append({"type": "function", "function": {**function, "name": name.for_model}})
        if kind == "custom" and _grammar(item).get("syntax") == "lark":
            not_enforced.append(f"{where}#/format")
    log_passed_over("tools", others)
    return ResponseTools(read_tools(definitions), names, tuple(not_enforced))


def _flat(items: Sequence[Any]) -> Iterator[tuple[str, Mapping[str, Any], str | None]]:
    """Each tool with its place and its namespace."""
    for i, item in enumerate(items):
        where = f"tools[{i}]"
        if not isinstance(item, Mapping) or not isinstance(item.get("type"), str):
            raise _invalid(f'{where} must be an object with a type, such as "function"')
        if item["type"] != "namespace":
            yield where, item, None
            continue
        inner, name = item.get("tools"), item.get("name")
        if not isinstance(name, str) or not isinstance(inner, list):
            raise _invalid(f"{where} must have a name and a list of tools")
        for k, tool in enumerate(inner):
            if not isinstance(tool, Mapping):
                raise _invalid(f"{where}.tools[{k}] must be an object")
            yield f"{where}.tools[{k}]", tool, name


def _function(item: Mapping[str, Any]) -> dict[str, Any]:
    nested = item.get("function")  # as in chat completions
    source = nested if isinstance(nested, Mapping) else item
    return {key: source.get(key) for key in ("name", "description", "parameters", "strict")}


def _custom(item: Mapping[str, Any]) -> dict[str, Any]:
    grammar = _grammar(item)
    text: dict[str, Any] = {"type": "string", "description": "The tool's input, as plain text."}
    description = str(item.get("description") or "")
    if grammar.get("syntax") == "regex":
        text["pattern"] = f"^(?:{grammar.get('definition')})$"
    elif grammar:
        description += f"\n\nThe input follows this grammar:\n{grammar.get('definition')}"
    parameters = {
        "type": "object",
        "properties": {INPUT: text},
        "required": [INPUT],
        "additionalProperties": False,
    }
    return {"name": item.get("name"), "description": description.strip() or None, "parameters": parameters}


def _grammar(item: Mapping[str, Any]) -> Mapping[str, Any]:
    """The grammar of a custom tool's text, empty where it is free."""
    form = item.get("format")
    return form if isinstance(form, Mapping) and form.get("type") == "grammar" else {}


def read_choice(value: Any, tools: ResponseTools) -> tuple[ResponseTools, Choice]:
    """The tools that may be called, and whether one must be.

    Raises:
        InvalidRequest: the choice is malformed or names what isn't there.
    """
    if value in (None, "auto", "none", "required"):
        return tools, value or "auto"
    kind = value.get("type") if isinstance(value, Mapping) else None
    if kind in ("function", "custom"):
        return tools, tool_named(_chosen_name(value), tools.tools)
    if kind == "allowed_tools" and isinstance(value.get("tools"), list):
        names = [tool_named(_chosen_name(item), tools.tools).name for item in value["tools"]]
        mode = value.get("mode")
        if mode not in ("auto", "required"):
            raise InvalidRequest(f'{CHOICE}.mode must be "auto" or "required"', param=CHOICE)
        return tools.only(names), mode
    raise InvalidRequest(
        f'{CHOICE} must be "none", "auto", "required", {{"type": "function", "name": ...}} or '
        '{"type": "allowed_tools", "mode": "auto", "tools": [...]}, since only functions and custom tools '
        "are run",
        param=CHOICE,
    )


def _chosen_name(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return None
    name = value.get("name")
    if name is None and isinstance(value.get("function"), Mapping):  # as in chat completions
        name = value["function"].get("name")
    return name


def _invalid(message: str) -> InvalidRequest:
    return InvalidRequest(message, param="tools")
