"""A model's chat format: how a conversation is shown to it, and how its answers are read.

One object per model owns both, so that no protocol knows of any form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from predictor.chat.abilities import Abilities
from predictor.chat.answer_reader import AnswerReader
from predictor.chat.channels import ChannelReader
from predictor.chat.form import AnswerForm, JsonArguments, form_texts
from predictor.chat.grammar import GrammarWriter, Lazily
from predictor.chat.known_forms import HERMES, UNANNOUNCED_THOUGHT, described_calls, known_channels
from predictor.chat.learning import learn_form
from predictor.chat.prompting import Conversation, Prompt, PromptWriter, Reasoning
from predictor.chat.reader import FormReader
from predictor.chat.rules import ControlTokens
from predictor.chat.template import ChatTemplate
from predictor.chat.tools import Tool
from predictor.chat.trying import learn_abilities
from predictor.structured.grammar import Grammar


@dataclass(frozen=True, slots=True)
class AnswerWish:
    """What a request asks of its answers.

    Attributes:
        answer: what text must look like; None leaves it free.
        tool: name of the only one that may be called, which it must be then.
        required: whether one of the tools must be called.
        parallel: whether an answer may have several calls.
    """

    answer: Grammar | None = None
    tool: str | None = None
    required: bool = False
    parallel: bool = True

    @property
    def must_call(self) -> bool:
        """Whether the answer must be a call."""
        return self.required or self.tool is not None

    def callable(self, tools: Sequence[Tool]) -> Sequence[Tool]:
        """Those of the tools that may be called."""
        return [tool for tool in tools if self.tool in (None, tool.name)]


class ChatFormat:
    """How one model chats, learnt from its template.

    Args:
        template: of the model.
        end_texts: texts of the tokens that end an answer.
        reasoning: what is done with thoughts.

    Attributes:
        has_own_calls: whether the model has a form of its own for calls, and is shown tools by its template.
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
        self.has_own_calls = self.form.calls is not None or (
            self.form.channels is not None and self.abilities.shows_tools
        )
        self._prompts = PromptWriter(
            template, self.abilities, self.form, reasoning, has_own_calls=self.has_own_calls
        )

    def _learn(self, end_texts: Sequence[str]) -> AnswerForm:
        source = self.template.source
        channels = known_channels(source)
        if channels is not None:
            return AnswerForm(channels=channels)
        form = learn_form(self.template, self.abilities, end_texts)
        if form.calls is None or not self.abilities.shows_tools:
            form = replace(form, calls=described_calls(source) if self.abilities.shows_tools else None)
        return form

    @property
    def thinks(self) -> bool:
        """Whether the model can think before it answers."""
        return self.form.thinks

    @property
    def has_json_arguments(self) -> bool:
        """Whether arguments of calls are JSON."""
        calls, channels = self.form.calls, self.form.channels
        style = channels.arguments if channels else calls.arguments if calls else None
        return style is None or isinstance(style, JsonArguments)

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

    def prompt(self, conversation: Conversation) -> Prompt:
        """The prompt of a conversation.

        Raises:
            InvalidRequest: a message is malformed, or the template refuses the conversation or fails on it.
        """
        return self._prompts.write(conversation)

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
        if prompt.begun and wish.answer is not None and not wish.must_call:
            return replace(wish.answer, begun=prompt.begun)
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
        is_raw = self.reasoning is Reasoning.RAW
        form = self._reading_form(tools, raw=is_raw)
        if form.channels is not None:
            return ChannelReader(form.channels, tools, in_text=bool(prompt.begun))
        in_thought = prompt.in_thought and form.thought is not None
        if form.thought is None and not is_raw:
            form = replace(form, thought=UNANNOUNCED_THOUGHT)
        return FormReader(form, tools, in_thought=in_thought, in_text=bool(prompt.begun))

    def _reading_form(self, tools: Sequence[Tool], *, raw: bool) -> AnswerForm:
        form = self.form
        if raw and form.channels is None:
            form = replace(form, thought=None)
        if not tools:
            return replace(form, calls=None)
        return form if self.has_own_calls else replace(form, calls=HERMES)
