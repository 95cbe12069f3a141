"""What a model writes in its own form is read back exactly, for every template of the corpus."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from grammars import refusal
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from template_corpus import NAMES, each_template
from written_answers import arguments, calls_of, chat_format, messages_of, tools_of, written

from predictor.chat.answer_reader import AnswerReader
from predictor.chat.events import ArgumentsPart, Event, Text, Thought
from predictor.chat.format import AnswerWish, ChatFormat
from predictor.chat.grammar import Lazily
from predictor.structured.grammar import Grammar, json_schema_grammar

THOUGHT = "First I look.\n\nThen: 1 < 2."
TOOL_NAMES = ("get_weather", "admin.tools/list", "files-read_" + "x" * 70)

# Templates that show no tools at all: they get Hermes' form, described in the system message.
HERMES = {
    "HuggingFaceTB-SmolLM3-3B",
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B",
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B",
    "deepseek-ai-DeepSeek-V3.1",
    "google-gemma-2-2b-it",
    "llama-cpp-rwkv-world",
    "microsoft-Phi-3.5-mini-instruct",
}
# Templates whose form writes texts between quotes as they are: a backslash may be one, or begin an escape.
RAW_TEXTS = {"LFM2-8B-A1B", "LFM2.5-8B-A1B", "LFM2.5-Instruct"}
# Their templates write one call an answer; several in a history become several answers.
ONE_CALL = {
    "GigaChat3-10B-A1.8B",
    "GigaChat3.1-10B-A1.8B",
    "meta-llama-Llama-3.1-8B-Instruct",
    "meta-llama-Llama-3.2-3B-Instruct",
    "meta-llama-Llama-3.3-70B-Instruct",
    "openai-gpt-oss-120b",
}
# What a grammar doesn't let through although a template writes it, and why.
NOT_IN_GRAMMAR = {"Reka-Edge": "escapes of letters in JSON, which llguidance wants as they are"}

EXAMPLES = settings(
    max_examples=6,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.generate),
)


def excluded(name: str) -> str:
    return "\\" if name in RAW_TEXTS else ""


@st.composite
def answers(draw: st.DrawFn, name: str) -> list[tuple[str, dict[str, Any]]]:
    most = 1 if name in ONE_CALL else 3
    names = draw(st.lists(st.sampled_from(TOOL_NAMES), min_size=1, max_size=most, unique=True))
    return [(tool_name, draw(arguments(excluded(name)))) for tool_name in names]


def read_in_pieces(reader: AnswerReader, text: str, cuts: Sequence[int]) -> list[Event]:
    events: list[Event] = []
    places = sorted({cut % (len(text) + 1) for cut in cuts} | {len(text)})
    start = 0
    for place in places:
        events += reader.push(text[start:place])
        start = place
    return events + reader.finish()


def joined(events: Sequence[Event], kind: type[Text] | type[Thought]) -> str:
    return "".join(event.text for event in events if isinstance(event, kind))


def test_which_templates_have_which_form() -> None:
    """The lists above say how it is, so that a change in what is learnt can't pass unseen."""
    formats = {name: chat_format(name) for name in NAMES}
    assert {name for name, fmt in formats.items() if not fmt.has_own_calls} == HERMES
    assert {name for name, fmt in formats.items() if fmt.has_own_calls and not several(fmt)} == ONE_CALL


def several(fmt: ChatFormat) -> bool:
    if fmt.form.channels is not None:
        return fmt.form.channels.several
    return fmt.form.calls is not None and fmt.form.calls.between is not None


@each_template
@pytest.mark.parametrize("thought", ["", THOUGHT], ids=["at once", "after a thought"])
def test_calls_come_back_however_they_are_cut(template_name: str, thought: str) -> None:
    fmt = chat_format(template_name)

    @EXAMPLES
    @given(answers(template_name), st.lists(st.integers(0, 10**6), max_size=40))
    def check(calls: list[tuple[str, Mapping[str, Any]]], cuts: list[int]) -> None:
        tools = tools_of(calls)
        prompt, text = written(fmt, tools, messages_of(calls, thought), thought)
        for places in (cuts, range(len(text) + 1), ()):
            events = read_in_pieces(fmt.reader(prompt, tools), text, places)
            assert calls_of(events) == calls, text
            assert joined(events, Text).strip() == "", text
            if thought and fmt.thinks:
                assert joined(events, Thought) == thought, text

    check()


@each_template
@pytest.mark.parametrize("size", [1, 4])
def test_arguments_come_in_parts(template_name: str, size: int) -> None:
    fmt = chat_format(template_name)
    calls: list[tuple[str, Mapping[str, Any]]] = [("write", {"text": "It's a long text. " * 20, "n": 1})]
    tools = tools_of(calls)
    prompt, text = written(fmt, tools, messages_of(calls), "")
    events = read_in_pieces(fmt.reader(prompt, tools), text, range(0, len(text), size))
    assert calls_of(events) == calls
    parts = [event.text for event in events if isinstance(event, ArgumentsPart)]
    assert len(parts) > 60
    assert max(map(len, parts)) < 40


@each_template
@pytest.mark.parametrize("thought", ["", THOUGHT], ids=["at once", "after a thought"])
def test_text_comes_back_too(template_name: str, thought: str) -> None:
    fmt = chat_format(template_name)
    content = "It is 1 < 2.\n\nAnd that is all: {}."
    messages = messages_of([], thought, content)
    prompt, text = written(fmt, [], messages, thought)
    for cuts in ((), range(len(text) + 1), range(0, len(text), 7)):
        events = read_in_pieces(fmt.reader(prompt, []), text, cuts)
        assert joined(events, Text).strip() == content, text
        if thought and fmt.thinks:
            assert joined(events, Thought) == thought, text


@each_template
@pytest.mark.parametrize("thought", ["", THOUGHT], ids=["at once", "after a thought"])
def test_the_grammar_accepts_what_the_model_writes(template_name: str, thought: str) -> None:
    fmt = chat_format(template_name)
    letters = excluded(template_name)
    if template_name in NOT_IN_GRAMMAR:
        letters += "".join(map(chr, range(0x7F, 0x100)))

    @settings(EXAMPLES, max_examples=3)
    @given(answers(template_name))
    def check(calls: list[tuple[str, Mapping[str, Any]]]) -> None:
        if template_name in NOT_IN_GRAMMAR and not str(calls).isascii():
            return
        tools = tools_of(calls)
        prompt, text = written(fmt, tools, messages_of(calls, thought), thought)
        required = fmt.constraint(AnswerWish(required=True), tools, prompt, {})
        assert required is not None
        assert not isinstance(required, Lazily)
        assert refusal(required.text, text.rstrip()) is None
        free = fmt.constraint(AnswerWish(), tools, prompt, {})
        if isinstance(free, Lazily) and fmt.form.channels is None:
            _, trigger, rest = text.partition(free.trigger)
            assert trigger
            assert refusal(free.grammar.text, rest.rstrip()) is None

    check()


ANSWER = {"type": "object", "properties": {"name": {"type": "string"}}, "additionalProperties": False}


@each_template
def test_an_answer_is_json_or_a_call(template_name: str) -> None:
    """Where a call begins like any JSON, too."""
    fmt = chat_format(template_name)
    answer = json_schema_grammar(ANSWER, "response_format", strict=True)
    calls = [("get_weather", {"city": "Rome"})]
    tools = tools_of(calls)
    prompt, text = written(fmt, tools, messages_of(calls), "")
    either = fmt.constraint(AnswerWish(answer=answer), tools, prompt, {})
    assert isinstance(either, Grammar)
    assert refusal(either.text, text.rstrip()) is None
    assert refusal(either.text, text.rstrip().replace("city", "town")) is not None
    prompt, text = written(fmt, tools, messages_of([], "", '{"name":"get_weather"}'), "")
    form = fmt.form.content
    text = text.removesuffix(form.end)
    assert refusal(either.text, text.rstrip()) is None
    assert refusal(either.text, text.rstrip().replace("name", "game")) is not None
    events = read_in_pieces(fmt.reader(prompt, tools), text, range(len(text)))
    assert joined(events, Text).strip() == '{"name":"get_weather"}'


@each_template
def test_the_grammar_holds_calls_to_their_tools(template_name: str) -> None:
    fmt = chat_format(template_name)
    calls = [("get_weather", {"city": "Rome", "days": 3})]
    tools = tools_of(calls)
    prompt, text = written(fmt, tools, messages_of(calls), "")
    required = fmt.constraint(AnswerWish(required=True), tools, prompt, {})
    assert required is not None
    assert not isinstance(required, Lazily)
    assert refusal(required.text, text.rstrip()) is None
    assert refusal(required.text, text.rstrip().replace("get_weather", "get_whether")) is not None
    assert refusal(required.text, text.rstrip().replace("city", "town")) is not None
    assert refusal(required.text, text.rstrip().replace("3", "three")) is not None
    assert refusal(required.text, "Some text instead of a call.") is not None
