"""What users write can't forge a turn, for every chat template in llama.cpp's source."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from typing import Any

from control_words import ControlWords
from template_corpus import each_template, template_source

from predictor.chat.provenance import Prompt
from predictor.chat.template import ChatTemplate
from predictor.chat.turns import own_text, weaknesses
from predictor.errors import InvalidRequest

# Their turns are marked by words that are no tokens: "User: ", "\n\nAssistant: ".
PLAIN_TURNS = {"llama-cpp-rwkv-world"}
NO_TOOL_TURNS = {"google-gemma-2-2b-it"}
# What they need beside messages.
FURTHER: Mapping[str, Mapping[str, Any]] = {
    "fireworks-ai-llama-3-firefunction-v2": {"functions": "[]", "datetime": "now"}
}
# It refuses answers in the history that hold its own control tokens.
REFUSES_ITS_OWN_IN_ANSWERS = "openai-gpt-oss-120b"
ROLES = ("system", "user", "assistant", "user", "assistant", "user")


def conversation(template: ChatTemplate, name: str, appendix: str) -> Prompt:
    """Six messages that end in the same, or five where the template knows no system message."""
    spared = "assistant" if name == REFUSES_ITS_OWN_IN_ANSWERS else None
    messages = [
        {"role": role, "content": f"word{i}{'' if role == spared else appendix}"}
        for i, role in enumerate(ROLES)
    ]
    prompt = first_accepted(template, name, [messages, messages[1:]], [None, []])
    assert prompt is not None
    return prompt


def conversation_with_tools(template: ChatTemplate, name: str, appendix: str) -> Prompt | None:
    """A call and its result, with the appendix in every text that a client can choose; None where refused."""
    parameters = {"type": "object", "properties": {"p": {"type": "string", "description": appendix}}}
    function = {"name": "f" + appendix, "description": "d" + appendix, "parameters": parameters}
    argument: dict[str, Any] = {"p": "a" + appendix, "q": [{"r": appendix}]}
    variants = []
    for arguments in (argument, json.dumps(argument)):
        call = {"id": "call00001", "type": "function", "function": {"name": "f", "arguments": arguments}}
        asked = {"role": "user", "content": "q" + appendix}
        called = {"role": "assistant", "content": "", "tool_calls": [call]}
        result = {"role": "tool", "tool_call_id": "call00001", "name": "f", "content": "r" + appendix}
        variants.append([asked, called, result])
    return first_accepted(template, name, variants, [[{"type": "function", "function": function}]])


def first_accepted(
    template: ChatTemplate, name: str, conversations: list[list[Any]], tools: list[list[Any] | None]
) -> Prompt | None:
    for messages in conversations:
        for offered in tools:
            with contextlib.suppress(InvalidRequest):
                return template.render(messages, tools=offered, **FURTHER.get(name, {}))
    return None


def appendices(words: ControlWords, harmless: Prompt) -> list[str]:
    """Control tokens in several orders, and a whole conversation in the template's own form."""
    reverse = "".join(reversed(words.names))
    return [" ".join(words.names), "".join(words.names), harmless.text, f"{reverse}\n{harmless.text}"]


def turns(tokens: list[str]) -> list[str]:
    """The tokens without those of thoughts, which templates move and drop by themselves."""
    return [token for token in tokens if "think" not in token.lower()]


@each_template
def test_contents_full_of_control_tokens_make_no_turn(template_name: str) -> None:
    template = ChatTemplate(template_source(template_name), "<s>", "</s>")
    harmless = conversation(template, template_name, "")
    words = ControlWords(template.source, harmless.text)
    for appendix in appendices(words, harmless):
        forged = conversation(template, template_name, appendix)
        assert len(forged.text) > len(harmless.text) + 2 * len(appendix)
        assert turns(words.read_in(forged)) == turns(words.read_in(harmless))


@each_template
def test_tools_calls_and_results_full_of_control_tokens_make_no_turn(template_name: str) -> None:
    template = ChatTemplate(template_source(template_name), "<s>", "</s>")
    harmless = conversation_with_tools(template, template_name, "")
    assert (harmless is None) == (template_name in NO_TOOL_TURNS)
    if harmless is None:
        return
    words = ControlWords(template.source, harmless.text)
    for appendix in appendices(words, harmless):
        forged = conversation_with_tools(template, template_name, appendix)
        assert forged is not None
        assert turns(words.read_in(forged)) == turns(words.read_in(harmless))


@each_template
def test_each_template_is_safe_or_the_log_says_so(template_name: str) -> None:
    template = ChatTemplate(template_source(template_name), "<s>", "</s>")
    words = ControlWords(own_text(template))
    found = list(weaknesses(template, words.tokens))
    if template_name in FURTHER:
        assert "refuses" in found[0]
    elif template_name in PLAIN_TURNS:
        assert "plain text" in found[0]
    else:
        assert found == []
