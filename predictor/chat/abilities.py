"""Which conversations a template takes, learnt by rendering small ones.

A template may refuse a role, drop it without a word, insist on turns or on fields of its own: each ability is
one small conversation and the words that must come back from it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from predictor.chat.template import ChatTemplate
from predictor.errors import InvalidRequest

# Words that no template has by itself.
SYSTEM, USER, ANSWER, OTHER = "Zqsystem", "Zquser", "Zqanswer", "Zqother"
RESULT, THOUGHT = "Zqresult", "Zqthought"
NAMES = ("zqfirst", "zqsecond", "zqthird")
IDS = ("zqid00001", "zqid00002", "zqid00003")
ARGUMENTS: Mapping[str, Any] = {"zqkey": "zqvalue", "zqother": "zqword"}
THINKING = {"enable_thinking": True}

_THOUGHT_FIELDS = (("reasoning_content", "reasoning"), ("thinking",), ("thought",))


def probe_tool(name: str) -> dict[str, Any]:
    """A tool that takes the probes' arguments."""
    properties = {key: {"type": "string", "description": "A word."} for key in ARGUMENTS}
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    function = {"name": name, "description": "Does it.", "parameters": parameters}
    return {"type": "function", "function": function}


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
    variables: Mapping[str, Any] = field(default_factory=dict)


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


def learn_abilities(template: ChatTemplate) -> Abilities:
    """Try what a template takes: about thirty renderings, a few milliseconds."""
    found = _base(template)
    tries = Prober(template, found)
    tools = [probe_tool(name) for name in NAMES]
    system = {"role": "system", "content": SYSTEM}
    more = {**system, "content": OTHER}
    late = [system, user(), answer(), more, user()]
    empty = [user(), answer(""), user(OTHER)]
    found = replace(
        found,
        system=tries.shows([system, user()], SYSTEM, USER),
        developer=tries.shows([{**system, "role": "developer"}, user()], SYSTEM, USER),
        several_system=tries.shows([system, more, user()], SYSTEM, OTHER, USER),
        late_system=tries.shows(late, SYSTEM) and tries.shows(late, OTHER),
        empty_answers=tries.shows(empty, USER, OTHER),
        repeated_roles=tries.shows([user(), user(OTHER)], USER, OTHER),
        any_start=tries.shows([answer(), user()], ANSWER, USER),
        shows_tools=tries.shows([user()], NAMES[0], tools=tools),
    )
    found = _calls(template, found, tools)
    return _thoughts(template, found, tools)


def _base(template: ChatTemplate) -> Abilities:
    """The first way of writing the simplest conversation that the template takes."""
    ways = [Abilities(), Abilities(no_tools_list=True), Abilities(parts=True)]
    ways += [Abilities(variables={"functions": "", "datetime": ""})]
    ways += [Abilities(parts=True, no_tools_list=True)]
    for way in ways:
        if Prober(template, way).shows([user()], USER):
            return way
    return Abilities()


def _calls(template: ChatTemplate, found: Abilities, tools: list[dict[str, Any]]) -> Abilities:
    ways = [(False, False), (True, False), (False, True), (True, True)]
    for as_text, null in ways:
        way = replace(found, arguments_as_text=as_text, null_content=null)
        tries = Prober(template, way)
        words = (USER, NAMES[0], *_words())
        if tries.shows([user(), calls_of(way, 1)], *words, tools=tools, prompt=False):
            break
    else:
        return found
    # An escaped quote tells that a text was made JSON once more.
    text = tries.render([user(), calls_of(way, 1)], tools, prompt=False) or ""
    if '\\"zqkey\\"' in text[text.rfind(NAMES[0]) :]:
        other = replace(way, arguments_as_text=not way.arguments_as_text)
        if Prober(template, other).shows([user(), calls_of(other, 1)], *words, tools=tools, prompt=False):
            way, tries = other, Prober(template, other)
    two = calls_of(way, 2)
    with_text = {**calls_of(way, 1), "content": ANSWER}
    beside = tries.render([user(), with_text], tools, prompt=False) or ""
    beside = beside[beside.rfind(USER) :]
    long = calls_of(way, 1)
    long = {**long, "tool_calls": [{**long["tool_calls"][0], "id": "call_0123456789abcdef"}]}
    result = {"role": "tool", "tool_call_id": IDS[0], "name": NAMES[0], "content": RESULT}
    return replace(
        way,
        shows_calls=True,
        several_calls=tries.shows(
            [user(), two], USER, NAMES[0], *_words(), NAMES[1], *_words(), tools=tools, prompt=False
        ),
        text_with_call=ANSWER in beside and NAMES[0] in beside,
        call_with_text=NAMES[0] in beside,
        short_ids=not tries.shows([user(), long], NAMES[0], tools=tools, prompt=False),
        shows_results=tries.shows([user(), calls_of(way, 1), result], RESULT, tools=tools),
    )


def _words() -> tuple[str, ...]:
    return tuple(word for pair in ARGUMENTS.items() for word in pair)


def _thoughts(template: ChatTemplate, found: Abilities, tools: list[dict[str, Any]]) -> Abilities:
    tries = Prober(template, found)
    making: list[Callable[..., dict[str, Any]]] = [lambda **fields: answer(**fields)]
    if found.shows_calls:
        making.append(lambda **fields: calls_of(found, 1, **fields))
    for fields in _THOUGHT_FIELDS:
        for make in making:
            message = make(**dict.fromkeys(fields, THOUGHT))
            if tries.shows([user(), message], USER, THOUGHT, tools=tools, prompt=False, thinking=True):
                found = replace(found, thought_fields=fields)
                return replace(found, thought_with_text=_takes_all(template, found, tools))
    part = {"type": "thinking", "thinking": THOUGHT}
    message = answer(ANSWER) | {"content": [part, {"type": "text", "text": ANSWER}]}
    if tries.shows([user(), message], USER, f"{THOUGHT}", ANSWER, tools=tools, prompt=False):
        text = tries.render([user(), message], tools, prompt=False) or ""
        # Not where the list is merely printed.
        return replace(found, thought_parts="'thinking'" not in text and '"thinking"' not in text)
    return found


def _takes_all(template: ChatTemplate, found: Abilities, tools: list[dict[str, Any]]) -> bool:
    if not found.shows_calls or not found.text_with_call:
        return True
    thought = dict.fromkeys(found.thought_fields, THOUGHT)
    message = {**calls_of(found, 1), **thought, "content": ANSWER}
    return Prober(template, found).render([user(), message], tools, prompt=False) is not None
