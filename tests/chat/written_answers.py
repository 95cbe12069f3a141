"""What models would write: a template's rendering of an answer in the history, the prompt taken off."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import strategies as st
from template_corpus import template_source

from predictor.chat.events import ArgumentsPart, CallStarted, Event
from predictor.chat.form import ThoughtForm
from predictor.chat.format import ChatFormat
from predictor.chat.matching import common_start
from predictor.chat.prompting import Conversation, Prompt
from predictor.chat.template import ChatTemplate
from predictor.chat.tools import Tool, read_tools

# Names of the tokens that end an answer, as the GGUFs of these models have them.
END_TEXTS = (
    *("<EOS>", "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|endoftext|>", "</s>"),
    *("<end_of_turn>", "<|end_of_msg|>", "<|call|>", "<|return|>", "<|END_OF_TURN_TOKEN|>", "[e~["),
    *(
        "<\uff5cend\u2581of\u2581sentence\uff5c>",
        "<seed:eos>",
        "<end_of_sentence>",
        "<SPECIAL_12>",
        "<|calls|>",
    ),
    *("<|assistant_end|>", "<|eot|>", "<|role_end|>", "<turn|>", "<\uff5chy_eos:opensource\uff5c>"),
    *("</assistant>", "<sep>", "<|tool_response>", "<|message_sep|>", "<|end|>"),
)
QUESTION = "Zquestion"

Calls = Sequence[tuple[str, Mapping[str, Any]]]


@functools.cache
def chat_format(name: str) -> ChatFormat:
    """The format learnt from a template of the corpus."""
    return ChatFormat(ChatTemplate(template_source(name), "<BOS>", "<EOS>"), END_TEXTS)


def calls_of(events: Sequence[Event]) -> list[tuple[str, Any]]:
    """The calls among events, each with its arguments parsed."""
    calls: list[tuple[str, str]] = []
    for event in events:
        if isinstance(event, CallStarted):
            calls.append((event.name, ""))
        elif isinstance(event, ArgumentsPart):
            calls[-1] = (calls[-1][0], calls[-1][1] + event.text)
    return [(name, json.loads(arguments)) for name, arguments in calls]


def tool(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A tool whose schema says of what type each of the arguments is."""
    properties = {key: {"description": "It.", **schema(value)} for key, value in arguments.items()}
    parameters = {"type": "object", "properties": properties, "required": list(arguments)}
    function = {"name": name, "description": "Does it.", "parameters": parameters}
    return {"type": "function", "function": function}


def schema(value: Any) -> dict[str, Any]:
    """A JSON schema of values like this one."""
    match value:
        case bool():
            return {"type": "boolean"}
        case str():
            return {"type": "string"}
        case int():
            return {"type": "integer"}
        case float():
            return {"type": "number"}
        case list():
            return {"type": "array", "items": schema(value[0]) if value else {"type": "string"}}
        case dict():
            members = {key: schema(item) for key, item in value.items()}
            return {"type": "object", "properties": members, "required": list(members)}
    return {"type": "null"}


def tools_of(calls: Calls) -> list[Tool]:
    """The tools that calls need."""
    return read_tools([tool(name, arguments) for name, arguments in dict(calls).items()])


def messages_of(calls: Calls, thought: str = "", content: str | None = None) -> list[dict[str, Any]]:
    """A question and an answer with calls, as OpenAI's clients send them back."""
    written = [
        {
            "id": f"call0000{i}",
            "type": "function",
            "function": {"name": name, "arguments": json.dumps(arguments)},
        }
        for i, (name, arguments) in enumerate(calls)
    ]
    answer: dict[str, Any] = {"role": "assistant", "content": content}
    if calls:
        answer["tool_calls"] = written
    if thought:
        answer["reasoning_content"] = thought
    return [{"role": "user", "content": QUESTION}, answer]


def written(
    fmt: ChatFormat, tools: Sequence[Tool], messages: list[dict[str, Any]], thought: str
) -> tuple[Prompt, str]:
    """The prompt, and what the model would write behind it."""
    effort = "high" if thought else None

    def render(conversation: list[dict[str, Any]], *, prompt: bool) -> Prompt:
        return fmt.prompt(Conversation(conversation, tools, {}, effort, add_generation_prompt=prompt))

    prompt = render(messages[:1], prompt=True)
    whole = render(messages, prompt=False).text
    question = render(messages[:1], prompt=False).text
    shared = common_start([prompt.text, whole])
    if shared != prompt.text:
        shared = re.sub(r"[<\[][^<>\[\]\n]*$", "", shared)
        answer = whole[len(shared) :]
        repeated = max(k for k in range(len(answer) + 1) if prompt.text.endswith(answer[:k]))
        answer = answer[repeated:]
    else:
        answer = whole[len(shared) :]
    answer = _without_end(answer, question[question.rfind(QUESTION) + len(QUESTION) :])
    if fmt.form.thought is not None:
        answer = _with_thought(fmt.form.thought, answer, thought, prompt)
    return prompt, answer


def _without_end(answer: str, user_end: str) -> str:
    """An answer without the marks that end it: a model writes a token there, which has no text."""
    common = common_start([answer[::-1], user_end[::-1]])[::-1]
    start = re.search(r"[<\[\n]|$", common)
    assert start is not None
    answer = answer.removesuffix(common[start.start() :])
    for _ in range(3):
        for end in END_TEXTS:
            answer = answer.removesuffix("\n").removesuffix(end)
    return answer


def _with_thought(form: ThoughtForm, answer: str, thought: str, prompt: Prompt) -> str:
    """An answer with the thought before it, where the template has left it out, or with an empty one."""
    if thought and thought not in answer:
        bare = re.sub(rf"^\s*({re.escape(form.start.strip())}\s*)?{re.escape(form.end.strip())}", "", answer)
        return ("" if prompt.in_thought else form.start) + thought + form.end + bare.lstrip()
    if prompt.in_thought and form.end.strip() not in answer:
        return form.end + answer
    return answer


_LETTERS = st.characters(codec="utf-8", exclude_categories=["Cs", "Cc", "Co", "Cn", "Zl", "Zp"])
_KEYS = st.from_regex(r"[a-z][a-z0-9_]{0,9}", fullmatch=True)


def texts(exclude: str = "") -> st.SearchStrategy[str]:
    """Texts with quotes, line breaks and what looks like a number, without some characters."""
    letters = st.one_of(_LETTERS, st.sampled_from("\n\t\"'\\<>{}[]()=,: "))
    looking = ("12", "-1.5", "true", "null", "None", "{}", "[1]", "a\nb", " led", "trailed ", '"quoted"', "")
    return st.one_of(st.text(letters, max_size=12), st.sampled_from(looking)).filter(
        lambda text: not set(text) & set(exclude)
    )


def arguments(exclude: str = "") -> st.SearchStrategy[dict[str, Any]]:
    """Arguments of a call: nested, empty, Unicode, quoted, on several lines and number-like ones."""
    words = texts(exclude)
    numbers = st.one_of(st.integers(-(10**9), 10**9), st.floats(-1e6, 1e6).map(lambda value: round(value, 3)))
    scalars = st.one_of(words, numbers, st.booleans())
    lists = st.one_of(st.lists(words, max_size=3), st.lists(st.integers(-99, 99), max_size=3))
    objects = st.dictionaries(_KEYS, st.one_of(scalars, lists), min_size=1, max_size=3)
    values = st.one_of(scalars, lists, objects)
    return st.dictionaries(_KEYS, values, max_size=4)
