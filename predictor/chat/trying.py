"""Which conversations a template takes, learnt by rendering small ones.

A template may refuse a role, drop it without a word, insist on turns or on fields of its own: each ability is
one small conversation and the words that must come back from it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from predictor.chat.abilities import EFFORT_VARIABLES, EFFORTS, Abilities
from predictor.chat.probing import (
    ANSWER,
    ARGUMENTS,
    IDS,
    NAMES,
    OTHER,
    RESULT,
    SYSTEM,
    THOUGHT,
    USER,
    Prober,
    answer,
    calls_of,
    probe_tool,
    user,
)
from predictor.chat.template import ChatTemplate

_THOUGHT_FIELDS = (("reasoning_content", "reasoning"), ("thinking",), ("thought",))


def learn_abilities(template: ChatTemplate) -> Abilities:
    """Try what a template takes: about thirty renderings, a few milliseconds."""
    found = _base(template)
    tries = Prober(template, found)
    tools = [probe_tool(name) for name in NAMES[:2]]
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
    return replace(_thoughts(template, found, tools), efforts=_efforts(template, found))


def _efforts(template: ChatTemplate, found: Abilities) -> tuple[str, ...]:
    if not any(name in template.source for name in EFFORT_VARIABLES):
        return ()
    tries = Prober(template, found)
    taken = [
        effort
        for effort in EFFORTS
        if tries.shows([user()], USER, thinking=True, **dict.fromkeys(EFFORT_VARIABLES, effort))
    ]
    return () if len(taken) == len(EFFORTS) else tuple(taken)


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
        # A field that the template doesn't name can't show.
        for make in making if any(name in template.source for name in fields) else ():
            message = make(**dict.fromkeys(fields, THOUGHT))
            if tries.shows([user(), message], USER, THOUGHT, tools=tools, prompt=False, thinking=True):
                found = replace(found, thought_fields=fields)
                return replace(found, thought_with_text=_takes_all(template, found, tools))
    if "thinking" not in template.source:
        return found
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
