"""Small conversations that a template is rendered on, to see what becomes of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from predictor.chat.abilities import Abilities
from predictor.chat.template import ChatTemplate
from predictor.errors import InvalidRequest

# Words that no template has by itself.
SYSTEM, USER, ANSWER, OTHER = "Zqsystem", "Zquser", "Zqanswer", "Zqother"
RESULT, THOUGHT = "Zqresult", "Zqthought"
NAMES = ("zqfirst", "zqsecond", "zqthird")
IDS = ("zqid00001", "zqid00002", "zqid00003")
ARGUMENTS: Mapping[str, Any] = {"zqkey": "zqvalue", "zqother": "zqword"}
THINKING = {"enable_thinking": True}


def probe_tool(name: str) -> dict[str, Any]:
    """A tool that takes the probes' arguments."""
    properties = {key: {"type": "string", "description": "A word."} for key in ARGUMENTS}
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    function = {"name": name, "description": "Does it.", "parameters": parameters}
    return {"type": "function", "function": function}


class Prober:
    """Renders probes of one template; what it refuses or fails on is None.

    Args:
        template: whose.
        abilities: how messages must be written for it, as far as it is known.
    """

    def __init__(self, template: ChatTemplate, abilities: Abilities | None = None) -> None:
        self.template = template
        self.abilities = abilities or Abilities()
        self._known: dict[str, str | None] = {}

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] = (),
        *,
        prompt: bool = True,
        **extra: Any,
    ) -> str | None:
        """The rendering, or None."""
        key = repr((messages, len(tools), prompt, extra))
        if key not in self._known:
            self._known[key] = self._render(messages, tools, prompt, extra)
        return self._known[key]

    def _render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]],
        prompt: bool,
        extra: Mapping[str, Any],
    ) -> str | None:
        variables = {**THINKING, **template_variables(self.abilities, tools), **extra}
        if self.abilities.parts:
            messages = [with_parts(message) for message in messages]
        try:
            rendered = self.template.render(
                messages, variables.pop("tools"), add_generation_prompt=prompt, **variables
            )
        except InvalidRequest:
            return None
        return rendered.text

    def shows(self, messages: Sequence[Mapping[str, Any]], *words: str, **options: Any) -> bool:
        """Whether the words come back, in their order."""
        text, at = self.render(messages, **options), 0
        for word in words:
            at = -1 if text is None else text.find(word, at)
            if at < 0:
                return False
        return True


def template_variables(abilities: Abilities, tools: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The variables of a rendering that depend on the tools."""
    variables = dict(abilities.variables)
    if "functions" in variables:
        variables["functions"] = json.dumps([tool["function"] for tool in tools], ensure_ascii=False)
        variables["datetime"] = datetime.now(UTC).strftime("%B %d %Y, %H:%M:%S UTC")
    shown: Any = list(tools)
    if not tools and not abilities.no_tools_list:
        shown = None
    return {**variables, "tools": shown}


def with_parts(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message with its text as a list of one part."""
    content = message.get("content")
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    return {**message, "content": parts}


def user(text: str = USER) -> dict[str, Any]:
    """A user's message."""
    return {"role": "user", "content": text}


def answer(text: str | None = ANSWER, **fields: Any) -> dict[str, Any]:
    """An assistant's message."""
    return {"role": "assistant", "content": text, **fields}


def calls_of(
    abilities: Abilities, count: int, arguments: Mapping[str, Any] = ARGUMENTS, **fields: Any
) -> dict[str, Any]:
    """An assistant's message with so many calls, as the template takes it."""
    written: Any = json.dumps(arguments) if abilities.arguments_as_text else dict(arguments)
    calls = [
        {"id": IDS[i], "type": "function", "function": {"name": NAMES[i], "arguments": written}}
        for i in range(count)
    ]
    return answer(None if abilities.null_content else "", tool_calls=calls, **fields)
