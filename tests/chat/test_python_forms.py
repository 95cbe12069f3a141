"""Calls in Python as they are learnt: on lines of their own between tags (OLMo 3), and bare (Llama 4)."""

from __future__ import annotations

import pytest
from grammars import refusal
from written_answers import calls_of, messages_of, tools_of, written

from predictor.chat.events import ArgumentsPart, Text
from predictor.chat.form import PythonArguments
from predictor.chat.format import AnswerWish, ChatFormat
from predictor.chat.grammar import Lazily
from predictor.chat.template import ChatTemplate
from predictor.structured.grammar import Grammar

TEMPLATE = """{%% for tool in tools or [] %%}{{ tool | tojson }}
{%% endfor %%}{%% for m in messages %%}<|im_start|>{{ m.role }}
{{ m.content }}{%% if m.tool_calls %%}%(head)s{%% for call in m.tool_calls %%}{{ call.function.name }}(
{%%- for key, value in call.function.arguments.items() %%}{{ key }}=
{%%- if value is string %%}'{{ value }}'{%% else %%}{{ value | tojson }}{%% endif %%}
{%%- if not loop.last %%}, {%% endif %%}{%% endfor %%}){%% if not loop.last %%}%(between)s{%% endif %%}
{%%- endfor %%}%(tail)s{%% endif %%}<|im_end|>
{%% endfor %%}{%% if add_generation_prompt %%}<|im_start|>assistant
{%% endif %%}"""
LINES = TEMPLATE % {
    "head": "<function_calls>\n",
    "between": "{{ '\\n' }}",
    "tail": "{{ '\\n' }}</function_calls>",
}
BARE = TEMPLATE % {"head": "[", "between": ", ", "tail": "]"}
CALLS = [
    ("f", {"a": "it's (so)", "b": [1, 2], "c": True}),
    ("g.h", {"n": -1.5, "o": {"k": 'it\'s "quoted"'}}),
    ("now", {}),
]


@pytest.mark.parametrize(("source", "trigger"), [(LINES, "<function_calls>"), (BARE, "[")])
def test_calls_come_back(source: str, trigger: str) -> None:
    fmt = ChatFormat(ChatTemplate(source, "", ""), ("<|im_end|>",))
    form = fmt.form.calls
    assert form is not None
    assert (form.arguments, form.trigger, form.is_bare) == (PythonArguments(), trigger, trigger == "[")
    tools = tools_of(CALLS)
    prompt, text = written(fmt, tools, messages_of(CALLS), "")
    required = fmt.constraint(AnswerWish(required=True), tools, prompt, {})
    assert isinstance(required, Grammar)
    assert refusal(required.text, text.rstrip()) is None
    for size in (1, 3, 7, len(text)):
        reader = fmt.reader(prompt, tools)
        events = [event for i in range(0, len(text), size) for event in reader.push(text[i : i + size])]
        assert calls_of(events + reader.finish()) == CALLS, size
        assert size > 7 or sum(isinstance(event, ArgumentsPart) for event in events) > 8, size


def test_a_bracket_is_a_call_at_the_start_only() -> None:
    fmt = ChatFormat(ChatTemplate(BARE, "", ""), ("<|im_end|>",))
    tools = tools_of(CALLS)
    prompt, _ = written(fmt, tools, messages_of(CALLS), "")
    free = fmt.constraint(AnswerWish(), tools, prompt, {})
    assert isinstance(free, Lazily)
    assert free.at_start
    for text in ("[1] See [this](x) and a list [2].", "As [f(a=1)] says."):
        reader = fmt.reader(prompt, tools)
        events = [event for character in text for event in reader.push(character)] + reader.finish()
        assert "".join(event.text for event in events if isinstance(event, Text)) == text
