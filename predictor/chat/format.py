"""A model's chat format: how a conversation is shown to it, and how its answers are read.

One object per model owns both, so that no protocol knows of any form.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from typing import Any

from predictor.chat import provenance
from predictor.chat.abilities import THINKING, Abilities, learn_abilities, template_variables
from predictor.chat.adaptation import adapt, for_template, with_instructions
from predictor.chat.answer_reader import AnswerReader, PlainReader
from predictor.chat.channels import ChannelReader
from predictor.chat.conversation import Call, Message, read_messages
from predictor.chat.form import AnswerForm, form_texts
from predictor.chat.grammar import GrammarWriter, Lazily
from predictor.chat.known_forms import HERMES, HERMES_INSTRUCTIONS, described_calls, known_channels
from predictor.chat.learning import learn_form
from predictor.chat.reader import FormReader
from predictor.chat.rules import ControlTokens
from predictor.chat.template import ChatTemplate
from predictor.chat.tools import Tool, spelled_out
from predictor.chat.writing import written_calls
from predictor.errors import InvalidRequest
from predictor.structured.grammar import Grammar

logger = logging.getLogger(__name__)


class Reasoning(StrEnum):
    """What is done with thoughts: told apart, forbidden where the model can do without, left in the text."""

    AUTO = "auto"
    OFF = "off"
    RAW = "raw"


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a prompt is made of.

    Attributes:
        messages: OpenAI's, as they came.
        tools: what the model may call.
        variables: further ones for the template, such as `enable_thinking`.
        effort: how much the model is to think: `none`, `low`, ...; None leaves it to the model.
        add_generation_prompt: end the prompt with the opening of an answer.
        continue_final: the last message, an answer, is not ended but goes on.
    """

    messages: Sequence[Any]
    tools: Sequence[Tool] = ()
    variables: Mapping[str, Any] = field(default_factory=dict)
    effort: str | None = None
    add_generation_prompt: bool = True
    continue_final: bool = False


@dataclass(frozen=True, slots=True)
class AnswerWish:
    """What a request asks of its answers.

    Attributes:
        answer: what text must look like; None leaves it free.
        tool: the only one that may be called, which it must be then.
        required: whether one of the tools must be called.
        parallel: whether an answer may have several calls.
    """

    answer: Grammar | None = None
    tool: Tool | None = None
    required: bool = False
    parallel: bool = True

    @property
    def must_call(self) -> bool:
        """Whether the answer must be a call."""
        return self.required or self.tool is not None

    def callable(self, tools: Sequence[Tool]) -> Sequence[Tool]:
        """Those of the tools that may be called."""
        return tools if self.tool is None else [self.tool]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered conversation.

    Attributes:
        rendered: what the model reads, and which of it the template wrote.
        in_thought: whether its end has begun a thought.
        may_think: whether the answer may begin with a thought of its own.
    """

    rendered: provenance.Prompt
    in_thought: bool = False
    may_think: bool = False

    @property
    def text(self) -> str:
        """What the model reads."""
        return self.rendered.text


class ChatFormat:
    """How one model chats, learnt from its template.

    Args:
        template: of the model.
        end_texts: texts of the tokens that end an answer.
        reasoning: what is done with thoughts.
    """

    def __init__(
        self,
        template: ChatTemplate,
        end_texts: Sequence[str] = (),
        reasoning: Reasoning = Reasoning.AUTO,
    ) -> None:
        self.template = template
        self.reasoning = reasoning
        self.abilities: Abilities = learn_abilities(template)
        self.form: AnswerForm = self._learn(end_texts)

    def _learn(self, end_texts: Sequence[str]) -> AnswerForm:
        source = self.template.source
        channels = known_channels(source)
        if channels is not None:
            return AnswerForm(channels=channels)
        form = learn_form(self.template, self.abilities, end_texts)
        if form.calls is None or not self.abilities.shows_tools:
            form = replace(form, calls=described_calls(source) if self.abilities.shows_tools else None)
        return form

    @cached_property
    def has_own_calls(self) -> bool:
        """Whether the model has a form of its own for calls, and is shown tools by its template."""
        return self.form.calls is not None or (self.form.channels is not None and self.abilities.shows_tools)

    @cached_property
    def thinks(self) -> bool:
        """Whether the model can think before it answers."""
        return self.form.thought is not None or bool(self.form.channels and self.form.channels.thoughts)

    def describe(self) -> str:
        """In a few words, what was learnt."""
        return f"tools {self.describe_calls()}; thoughts {self.describe_thoughts()}"

    def describe_calls(self) -> str:
        """How tools are called."""
        calls, channels = self.form.calls, self.form.channels
        if not self.has_own_calls:
            return "in Hermes' form, described in the system message"
        if channels is not None:
            return f"in messages to recipients, arguments as {channels.arguments.name}"
        assert calls is not None
        return f"behind {calls.trigger!r}, arguments as {calls.arguments.name}"

    def describe_thoughts(self) -> str:
        """How thoughts are written."""
        channels, thought = self.form.channels, self.form.thought
        if channels is not None and channels.thoughts:
            return f"in messages headed {channels.thoughts[0].strip()!r}"
        return "none" if thought is None else f"between {thought.start.strip()!r} and {thought.end.strip()!r}"

    def describe_roles(self) -> str:
        """Which roles the template takes as they are, and what becomes of the others."""
        taken = ["user", "assistant"]
        taken += ["system"] if self.abilities.system else []
        taken += ["developer"] if self.abilities.developer else []
        taken += ["tool"] if self.abilities.shows_results else []
        rewritten = {"system": "user", "developer": "system", "tool": "user"}
        others = [f"{role} as {other}" for role, other in rewritten.items() if role not in taken]
        return ", ".join(taken + others)

    def capabilities(self) -> list[str]:
        """What can be asked of the model, by the names that Ollama has for it."""
        return ["chat", "tools", *(["thinking"] if self.thinks else [])]

    # Showing.

    def prompt(self, conversation: Conversation) -> Prompt:
        """The prompt of a conversation.

        Raises:
            InvalidRequest: a message is malformed, or the template refuses the conversation or fails on it.
        """
        messages = read_messages(conversation.messages)
        abilities, tools = self.abilities, conversation.tools
        if tools and not self.has_own_calls:
            lines = "\n".join(json.dumps(tool.definition, ensure_ascii=False) for tool in tools)
            messages = with_instructions(messages, HERMES_INSTRUCTIONS.format(tools=lines))
        if not self.has_own_calls:
            abilities = replace(abilities, shows_calls=False, shows_results=False)
        adapted = adapt(messages, abilities, self._write_calls)
        shown = [tool.definition for tool in tools] if self.has_own_calls else []
        variables = {
            **THINKING,
            **self._thinking_variables(conversation),
            **template_variables(self.abilities, shown),
            **conversation.variables,
        }
        if conversation.continue_final:
            return self._continued(adapted, variables)
        rendered = self._render(adapted, variables, add_generation_prompt=conversation.add_generation_prompt)
        text = rendered.text
        may_think = self.thinks and self.reasoning is not Reasoning.OFF and not self._has_closed_thought(text)
        return Prompt(rendered, self._is_in_thought(text), may_think and conversation.add_generation_prompt)

    def _render(
        self, messages: Sequence[Message], variables: Mapping[str, Any], *, add_generation_prompt: bool
    ) -> provenance.Prompt:
        given = {**variables, "add_generation_prompt": add_generation_prompt}
        tools = given.pop("tools")
        shown = for_template(messages, self.abilities)
        try:
            return self.template.render(shown, tools, **given)
        except InvalidRequest:
            if not tools:
                raise
            try:
                # Some templates fail on schemas that leave out what may be left out.
                return self.template.render(shown, [spelled_out(tool) for tool in tools], **given)
            except InvalidRequest:
                pass
            raise

    def _thinking_variables(self, conversation: Conversation) -> dict[str, Any]:
        """The variables that turn thinking on or off, by the names that templates have for them."""
        effort = conversation.effort
        wanted = conversation.variables.get("enable_thinking")
        if self.reasoning is Reasoning.OFF or effort == "none" or wanted is False:
            return {"enable_thinking": False, "thinking": False}
        if effort is None:
            return {"thinking": True} if wanted else {}
        return {
            "thinking": True,
            "reasoning_effort": effort,
            "thinking_effort": effort,
            "reasoning_strength": effort,
        }

    def _continued(self, messages: Sequence[Message], variables: Mapping[str, Any]) -> Prompt:
        """The prompt up to the end of the last message's text, which the answer goes on with."""
        if not messages or messages[-1].role != "assistant" or messages[-1].calls:
            raise InvalidRequest(
                "continue_final_message needs an assistant message without tool_calls at the end",
                param="continue_final_message",
            )
        last = messages[-1]
        mark = f"zq{secrets.token_hex(8)}"
        marked = [*messages[:-1], replace(last, content=last.content + mark)]
        rendered = self._render(marked, variables, add_generation_prompt=False)
        end = rendered.text.rfind(mark)
        if end < 0:
            raise InvalidRequest(
                "the model's chat template doesn't show the last message as it is, so it can't be continued",
                param="continue_final_message",
            )
        return Prompt(rendered.cut(end))

    def _is_in_thought(self, text: str) -> bool:
        thought = self.form.thought
        return thought is not None and text.rstrip().endswith(thought.start.strip() or "\0")

    def _has_closed_thought(self, text: str) -> bool:
        thought = self.form.thought
        if thought is None or not text.rstrip().endswith(thought.end.strip()):
            return False
        before = text.rstrip().removesuffix(thought.end.strip()).rstrip()
        # An end that begins the next message stands at the end of every prompt.
        return before.endswith(thought.start.strip()) or thought.end.count("<") <= 1

    def _write_calls(self, calls: Sequence[Call]) -> str:
        return written_calls(self.form.calls or HERMES, calls)

    # Constraining.

    def marks(self) -> tuple[str, ...]:
        """The literal texts of the form, in which control tokens may stand."""
        return form_texts(self.form if self.has_own_calls else replace(self.form, calls=HERMES))

    def thought_marks(self) -> tuple[str, str, str]:
        """What begins a thought, what ends it, and what is written to end one early."""
        channels, thought = self.form.channels, self.form.thought
        if channels is not None:
            end = channels.ends[0] if channels.ends else channels.opening
            return channels.thoughts[0] + channels.header_end, end, f"{end}{channels.opening}"
        assert thought is not None
        return thought.start.strip(), thought.end.strip(), thought.end

    def constraint(
        self, wish: AnswerWish, tools: Sequence[Tool], prompt: Prompt, control: ControlTokens
    ) -> Grammar | Lazily | None:
        """What an answer is held to, None where it is free.

        Args:
            wish: what the request asks of answers.
            tools: what may be called.
            prompt: what the answer follows.
            control: ids of the control tokens among `marks`.

        Raises:
            InvalidRequest: a schema can't be used.
        """
        if not tools and wish.answer is None:
            return None
        writer = GrammarWriter(self._reading_form(tools, raw=False), wish.callable(tools), control)
        state = {"in_thought": prompt.in_thought, "may_think": prompt.may_think}
        if not tools:
            assert wish.answer is not None
            return writer.answer(wish.answer, **state)
        if wish.must_call:
            return writer.calls(parallel=wish.parallel, **state)
        if wish.answer is not None:
            return writer.answer_or_calls(wish.answer, parallel=wish.parallel, **state)
        return writer.lazily(parallel=wish.parallel)

    # Reading.

    def reader(self, prompt: Prompt, tools: Sequence[Tool]) -> AnswerReader:
        """A reader for one answer to a prompt."""
        form = self._reading_form(tools, raw=self.reasoning is Reasoning.RAW)
        if form.channels is not None:
            return ChannelReader(form.channels, tools)
        if form == AnswerForm():
            return PlainReader()
        return FormReader(form, tools, in_thought=prompt.in_thought and form.thought is not None)

    def _reading_form(self, tools: Sequence[Tool], *, raw: bool) -> AnswerForm:
        form = self.form
        if raw and form.channels is None:
            form = replace(form, thought=None)
        if not tools:
            return replace(form, calls=None)
        return form if self.has_own_calls else replace(form, calls=HERMES)
