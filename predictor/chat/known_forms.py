"""Forms that a template's renderings don't tell, written by hand; each is known by words of its template.

Sources: https://github.com/openai/harmony (gpt-oss), https://functionary.meetkai.com (functionary 3.2),
https://huggingface.co/LiquidAI (LFM2), https://huggingface.co/ibm-granite (Granite 3.3),
https://huggingface.co/ServiceNow-AI (Apriel 1.5) and
https://github.com/NousResearch/Hermes-Function-Calling (Hermes, the form for models that have none).
"""

from __future__ import annotations

from predictor.chat.form import (
    CallForm,
    ChannelForm,
    ContentForm,
    JsonArguments,
    PythonArguments,
    TaggedArguments,
    ThoughtForm,
)

HERMES = CallForm(
    head=('<tool_call>\n{"name": "',),
    middle=('", "arguments": ',),
    between=('}\n</tool_call>\n<tool_call>\n{"name": "',),
    tail=("}\n</tool_call>",),
    arguments=JsonArguments(),
    trigger="<tool_call>",
)
HERMES_INSTRUCTIONS = """# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{tools}
</tools>

For each function call, return a json object with function name and arguments within \
<tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""

_GRANITE = CallForm(
    head=('<|tool_call|>[{"name": "',),
    middle=('", "arguments": ',),
    between=('}, {"name": "',),
    tail=("}]",),
    arguments=JsonArguments(),
    trigger="<|tool_call|>",
)
_LIQUID = CallForm(
    head=("<|tool_call_start|>[",),
    middle=(),
    between=(", ",),
    tail=("]<|tool_call_end|>",),
    arguments=PythonArguments(),
    trigger="<|tool_call_start|>",
)
# Of templates that show tools, but not the calls of earlier answers.
_DESCRIBED = (
    (("respond only with <|tool_call|> followed by a JSON list",), _GRANITE),
    (("List of tools: ", "<|im_start|>"), _LIQUID),
)

UNANNOUNCED_THOUGHT = ThoughtForm("<think>\n", "\n</think>\n\n")
"""Of models whose template says nothing of thoughts: some keep the template of a model that doesn't think."""
# Of templates that ask for thoughts in words, and never show one.
_DESCRIBED_THOUGHTS = (
    (
        ("<think></think>", "<response></response>"),
        ThoughtForm("<think>", "</think>"),
        ContentForm("<response>", "</response>", is_certain=False),
    ),
    (
        ("[BEGIN FINAL RESPONSE] ... [END FINAL RESPONSE]",),
        ThoughtForm("Here are my reasoning steps:\n", "\n[BEGIN FINAL RESPONSE]\n"),
        ContentForm("", "\n[END FINAL RESPONSE]", is_certain=False),
    ),
)
# Where a template never shows a thought, these tell that its model thinks nevertheless.
_KNOWN_THOUGHTS = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<|inner_prefix|>", "<|inner_suffix|>"),
)

_HARMONY = ChannelForm(
    opening="<|start|>assistant",
    header_end="<|message|>",
    ends=("<|end|>", "<|call|>", "<|return|>"),
    call=(" to=functions.", None, "<|channel|>commentary json"),
    thoughts=("<|channel|>analysis",),
    texts=("<|channel|>final", "<|channel|>commentary"),
    arguments=JsonArguments(),
    several=False,
)
_ATEM_BODY = CallForm(
    head=('<atem:function_calls>\n<atem:invoke name="',),
    middle=('">',),
    between=None,
    tail=("\n</atem:invoke>\n</atem:function_calls>",),
    arguments=TaggedArguments('\n<atem:parameter name="', {'">': None}, "</atem:parameter>"),
    trigger="<atem:function_calls>",
)
_ATEM = ChannelForm(
    opening="<|start|>assistant",
    header_end="<|message|>",
    ends=("<|eom|>", "<|eot|>"),
    call=(" to=", None),
    thoughts=(" to=self",),
    texts=(" to=user",),
    arguments=_ATEM_BODY.arguments,
    several=True,
    body=_ATEM_BODY,
)
_FUNCTIONARY = ChannelForm(
    opening=">>>",
    header_end="\n",
    ends=(),
    call=(None,),
    thoughts=(),
    texts=("all",),
    arguments=JsonArguments(),
    several=True,
)
_CHANNELS = (
    (("<|channel|>analysis<|message|>", "<|start|>assistant"), _HARMONY),
    (("to=self<|message|>", "<atem:invoke"), _ATEM),
    ((">>>${recipient}", ">>>all"), _FUNCTIONARY),
)


def described_calls(source: str) -> CallForm | None:
    """The form of calls that a template describes in words only."""
    return next((form for words, form in _DESCRIBED if all(word in source for word in words)), None)


def described_thoughts(source: str) -> tuple[ThoughtForm, ContentForm] | None:
    """The form of thoughts and of what follows them, where a template describes both in words only."""
    return next(
        (
            (thought, content)
            for words, thought, content in _DESCRIBED_THOUGHTS
            if all(word in source for word in words)
        ),
        None,
    )


def known_thought(source: str, opened: str) -> ThoughtForm | None:
    """The form of thoughts whose marks are in a template.

    Args:
        source: of the template.
        opened: what a prompt ends with.
    """
    return next(
        (ThoughtForm(start, end) for start, end in _KNOWN_THOUGHTS if end in source or start in opened), None
    )


def known_channels(source: str) -> ChannelForm | None:
    """The form of a template whose answers are messages to recipients."""
    return next((form for words, form in _CHANNELS if all(word in source for word in words)), None)
