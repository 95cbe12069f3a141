"""Functions that the model may call, as a request names them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from predictor.errors import InvalidRequest

MAX_TOOLS = 128
MAX_NAME = 256

# MCP servers and agents name tools `admin.tools.list`, `files/read` or `github:search`.
_NAME = re.compile(rf"[\w./:@-]{{1,{MAX_NAME}}}")
_MAX_DEPTH = 64


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call.

    Attributes:
        name: letters, digits, `_`, `-`, `.`, `/`, `:` and `@`.
        parameters: JSON schema of its arguments, which are one JSON object.
        strict: whether every keyword of the schema must be enforced.
        definition: OpenAI's `{"type": "function", "function": {...}}`, without fields that are null.
        not_enforced: JSON pointers to keywords that were taken out of the schema, as nothing enforces them.
    """

    name: str
    parameters: Mapping[str, Any]
    strict: bool
    definition: Mapping[str, Any]
    not_enforced: tuple[str, ...] = ()


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
    if not isinstance(function, Mapping) or item.get("type", "function") != "function":
        raise _invalid(f'{where} must be {{"type": "function", "function": {{"name": ...}}}}')
    name = function.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise _invalid(f"{where}.function.name must be 1 to {MAX_NAME} letters, digits, _ - . / : and @")
    parameters = function.get("parameters")
    if parameters is None or parameters == {}:
        parameters = {"type": "object", "properties": {}, "additionalProperties": False}
    if not isinstance(parameters, Mapping) or (parameters.get("type") or "object") != "object":
        raise _invalid(f"{where}.function.parameters must be a JSON schema of type object")
    strict = function.get("strict")
    if strict not in (None, True, False):
        raise _invalid(f"{where}.function.strict must be true or false")
    parameters = {"type": "object", **_without_nulls(parameters)}
    given = {key: value for key, value in function.items() if value is not None}
    definition = {"type": "function", "function": {**given, "parameters": _shown(parameters)}}
    return Tool(name, parameters, strict is True, definition)


def _without_nulls(schema: Any, depth: int = 0) -> Any:
    """A schema without keywords that are null: JSON Schema knows none, but generators write them."""
    if depth > _MAX_DEPTH:
        return schema  # Refused later, where schemas become grammars.
    if isinstance(schema, list):
        return [_without_nulls(item, depth + 1) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    return {
        key: _without_nulls(value, depth + 1)
        for key, value in schema.items()
        if value is not None or key in ("const", "default", "example")
    }


def _shown(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """As a template may rely on it: `properties` are there."""
    return {**parameters, "properties": parameters.get("properties", {})}


def spelled_out(definition: Mapping[str, Any]) -> dict[str, Any]:
    """A tool with what templates of its parameters may rely on: a description and one type each."""
    function = definition["function"]
    parameters = function["parameters"]
    members = {key: _spelled_out(value) for key, value in parameters["properties"].items()}
    spelled = {"required": [], **parameters, "properties": members}
    return {**definition, "function": {"description": "", **function, "parameters": spelled}}


def _spelled_out(schema: Any) -> dict[str, Any]:
    schema = schema if isinstance(schema, Mapping) else {}
    kind = schema.get("type")
    if not isinstance(kind, str):
        kind = "string"
    spelled = {"description": "", **schema, "type": kind}
    if kind == "object":
        spelled.setdefault("properties", {})
        spelled["additionalProperties"] = {"type": "string"}
    if kind == "array":
        spelled["items"] = _spelled_out(schema.get("items"))
    return spelled


def _invalid(message: str) -> InvalidRequest:
    return InvalidRequest(message, param="tools")
