"""Thoughts of the templates that speak of them: which are read and shown again, and why others are not."""

from __future__ import annotations

import re

import pytest
from template_corpus import NAMES, each_template, template_source
from written_answers import chat_format, messages_of, tools_of, written

from predictor.chat.abilities import EFFORTS, nearest_effort
from predictor.chat.events import Event, Text, Thought
from predictor.chat.form import AnswerForm
from predictor.chat.format import ChatFormat, Reasoning
from predictor.chat.prompting import Conversation
from predictor.chat.template import ChatTemplate

SPEAKS = re.compile("think|reason")
# They speak of it, but their models have no thoughts: the words with which they do.
NO_THOUGHTS = {
    "GigaChat3-10B-A1.8B": "Maintain a logical chain of reasoning when answering the user's question",
    "GigaChat3.1-10B-A1.8B": "Maintain a logical chain of reasoning when answering the user's question",
    "Qwen3-Coder": "You may provide optional reasoning for your function call in natural language",
    "unsloth-mistral-Devstral-Small-2507": "reason",  # in the rules for a software engineer
}
# What they never show again, and why: the thoughts are cut off, or there is no field for them.
NOT_SHOWN = {
    "Apertus-8B-Instruct": "block.type == 'thoughts'",  # of a content made of blocks, its own invention
    "HuggingFaceTB-SmolLM3-3B": "",
    "LFM2.5-Instruct": 'content.split("</think>")[-1]',
    "NVIDIA-Nemotron-Nano-v2": "content.split('</think>')[1]",
    "Qwen-QwQ-32B": "message.content.split('</think>')[-1]",
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B": "content.split('</think>')[-1]",
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B": "content.split('</think>')[-1]",
    "deepseek-ai-DeepSeek-V3.1": "content.split('</think>', 1)[1]",
    "ibm-granite-granite-3.3-2B-Instruct": "",
    "llama-cpp-deepseek-r1": "content.split('</think>')",
    "llama-cpp-rwkv-world": "content.split('</think>')[-1]",
    "unsloth-Apriel-1.5": "if add_thoughts and 'thought' in message",  # of another form of thoughts
}
THOUGHT = "First I look.\n\nThen: 1 < 2."
CALL = [("f", {"a": "b"})]


def told(events: list[Event]) -> tuple[str, str]:
    """What the thoughts and the texts among events say."""
    thought = "".join(event.text for event in events if isinstance(event, Thought))
    return thought, "".join(event.text for event in events if isinstance(event, Text))


def test_49_templates_speak_of_thoughts_and_45_have_them() -> None:
    speaking = {name for name in NAMES if SPEAKS.search(template_source(name))}
    thinking = {name for name in NAMES if chat_format(name).thinks}
    assert len(speaking) == 49
    assert speaking - thinking == set(NO_THOUGHTS)
    assert len(thinking) == 45
    assert thinking <= speaking
    for name, words in NO_THOUGHTS.items():
        assert words in template_source(name)


@each_template
def test_thoughts_are_read_and_shown_again(template_name: str) -> None:
    fmt = chat_format(template_name)
    if not fmt.thinks:
        return
    messages = messages_of([], THOUGHT, "Yes.")
    prompt, text = written(fmt, [], messages, THOUGHT)
    reader = fmt.reader(prompt, [])
    thought, answer = told(reader.push(text) + reader.finish())
    assert (thought, answer.strip()) == (THOUGHT, "Yes.")
    shown = shows(fmt, messages, tools=False) or shows(fmt, messages_of(CALL, THOUGHT), tools=True)
    assert shown == (template_name not in NOT_SHOWN)
    assert NOT_SHOWN.get(template_name, "") in template_source(template_name)


def shows(fmt: ChatFormat, messages: list[dict[str, object]], *, tools: bool) -> bool:
    """Whether a conversation's last thought comes back."""
    offered = tools_of(CALL) if tools else ()
    conversation = Conversation(messages, offered, {}, "high", add_generation_prompt=False)
    return THOUGHT in fmt.prompt(conversation).text


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"meetkai-functionary-medium-v3.2"}))
def test_a_thought_that_nothing_announced_is_one(name: str) -> None:
    """MiniMax-M1 and MiMo-VL think, and so do models that were tuned on another one's template."""
    fmt = chat_format(name)
    if fmt.thinks:
        return
    prompt = fmt.prompt(Conversation(messages_of([])[:1]))
    for pieces in (["<think>\nHm.\n</think>\n\nYes."], ["<th", "ink>Hm", ".</th", "ink>Yes."]):
        reader = fmt.reader(prompt, [])
        events = [event for piece in pieces for event in reader.push(piece)]
        assert told(events + reader.finish()) == ("Hm.", "Yes.")
    reader = fmt.reader(prompt, [])
    assert told(reader.push("It says <think>no</think>.") + reader.finish()) == (
        "",
        "It says <think>no</think>.",
    )


def test_nothing_is_told_apart_where_thoughts_stay_in_the_text() -> None:
    template = ChatTemplate("{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}", "", "")
    fmt = ChatFormat(template, reasoning=Reasoning.RAW)
    assert fmt.form == AnswerForm()
    reader = fmt.reader(fmt.prompt(Conversation(messages_of([])[:1])), [])
    text = "<think>\nHm.\n</think>\n\nYes."
    assert told(reader.push(text) + reader.finish()) == ("", text)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "ibm-granite-granite-3.3-2B-Instruct",
            "<think>First I look.\n\nThen: 1 < 2.</think><response>Yes.</response>",
        ),
        (
            "unsloth-Apriel-1.5",
            "Here are my reasoning steps:\nFirst I look.\n\nThen: 1 < 2.\n"
            "[BEGIN FINAL RESPONSE]\nYes.\n[END FINAL RESPONSE]",
        ),
    ],
)
def test_forms_that_templates_describe_in_words(name: str, text: str) -> None:
    fmt = chat_format(name)
    prompt = fmt.prompt(Conversation(messages_of([])[:1], (), {}, "high"))
    for size in (1, 5, len(text)):
        reader = fmt.reader(prompt, [])
        events = [event for i in range(0, len(text), size) for event in reader.push(text[i : i + size])]
        thought, answer = told(events + reader.finish())
        assert (thought, answer.strip()) == (THOUGHT, "Yes."), size


def test_every_effort_is_taken_by_every_template() -> None:
    """By its nearest word where a template refuses it."""
    question = messages_of([])[:1]
    for name in NAMES:
        for effort in ("none", *EFFORTS):
            assert chat_format(name).prompt(Conversation(question, (), {}, effort)).text
    efforts = {name: chat_format(name).abilities.efforts for name in NAMES}
    assert {name: efforts for name, efforts in efforts.items() if efforts} == {
        "Kimi-K3": ("low", "high", "max"),
        "tencent-Hy3": ("low", "high"),
    }
    assert [nearest_effort(effort, ("low", "high")) for effort in EFFORTS] == ["low", "low", *["high"] * 4]
    assert nearest_effort("medium", ()) == "medium"
