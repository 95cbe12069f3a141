"""Shows conversations to a model, written as its template takes them."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from predictor.chat import provenance
from predictor.chat.abilities import EFFORT_VARIABLES, Abilities, nearest_effort
from predictor.chat.adaptation import adapt, for_template, with_instructions
from predictor.chat.conversation import Call, Message, read_messages
from predictor.chat.form import AnswerForm
from predictor.chat.known_forms import HERMES, HERMES_INSTRUCTIONS
from predictor.chat.probing import THINKING, template_variables
from predictor.chat.template import ChatTemplate
from predictor.chat.tools import Tool, spelled_out
from predictor.chat.writing import written_calls
from predictor.errors import InvalidRequest


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
        thought_tokens: most tokens of a thought, for templates that tell the model.
        add_generation_prompt: end the prompt with the opening of an answer.
        continue_final: the last message, an answer, is not ended but goes on.
    """

    messages: Sequence[Any]
    tools: Sequence[Tool] = ()
    variables: Mapping[str, Any] = field(default_factory=dict)
    effort: str | None = None
    thought_tokens: int | None = None
    add_generation_prompt: bool = True
    continue_final: bool = False


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered conversation.

    Attributes:
        rendered: what the model reads, and which of it the template wrote.
        in_thought: whether its end has begun a thought.
        may_think: whether the answer may begin with a thought of its own.
        begun: the text of an answer that goes on, as far as it is there.
    """

    rendered: provenance.Prompt
    in_thought: bool = False
    may_think: bool = False
    begun: str = ""

    @property
    def text(self) -> str:
        """What the model reads."""
        return self.rendered.text


class PromptWriter:
    """Writes the prompts of one model.

    Args:
        template: of the model.
        abilities: what the template takes.
        form: how the model writes answers.
        reasoning: what is done with thoughts.
        has_own_calls: whether the template shows tools, and calls are written in a form of the model's own.
    """

    def __init__(
        self,
        template: ChatTemplate,
        abilities: Abilities,
        form: AnswerForm,
        reasoning: Reasoning,
        *,
        has_own_calls: bool,
    ) -> None:
        self._template = template
        self._abilities = abilities
        self._form = form
        self._reasoning = reasoning
        self._has_own_calls = has_own_calls

    def write(self, conversation: Conversation) -> Prompt:
        """The prompt of a conversation.

        Raises:
            InvalidRequest: a message is malformed, or the template refuses the conversation or fails on it.
        """
        messages = read_messages(conversation.messages)
        abilities, tools = self._abilities, conversation.tools
        if tools and not self._has_own_calls:
            lines = "\n".join(json.dumps(tool.definition, ensure_ascii=False) for tool in tools)
            messages = with_instructions(messages, HERMES_INSTRUCTIONS.format(tools=lines))
        if not self._has_own_calls:
            abilities = replace(abilities, shows_calls=False, shows_results=False)
        adapted = adapt(messages, abilities, self._write_calls)
        shown = [tool.definition for tool in tools] if self._has_own_calls else []
        variables = {
            **THINKING,
            **self._thinking_variables(conversation),
            **template_variables(self._abilities, shown),
            **conversation.variables,
        }
        if conversation.continue_final:
            return self._continued(adapted, variables)
        rendered = self._render(adapted, variables, add_generation_prompt=conversation.add_generation_prompt)
        text = rendered.text
        may_think = (
            self._form.thinks and self._reasoning is not Reasoning.OFF and not self._has_closed_thought(text)
        )
        return Prompt(rendered, self._is_in_thought(text), may_think and conversation.add_generation_prompt)

    def _render(
        self, messages: Sequence[Message], variables: Mapping[str, Any], *, add_generation_prompt: bool
    ) -> provenance.Prompt:
        given = {**variables, "add_generation_prompt": add_generation_prompt}
        tools = given.pop("tools")
        shown = for_template(messages, self._abilities)
        try:
            return self._template.render(shown, tools, **given)
        except InvalidRequest:
            if not tools:
                raise
            try:
                # Some templates fail on schemas that leave out what may be left out.
                return self._template.render(shown, [spelled_out(tool) for tool in tools], **given)
            except InvalidRequest:
                pass
            raise

    def _thinking_variables(self, conversation: Conversation) -> dict[str, Any]:
        """The variables that turn thinking on or off, by the names that templates have for them."""
        effort = conversation.effort
        wanted = conversation.variables.get("enable_thinking")
        if self._reasoning is Reasoning.OFF or effort == "none" or wanted is False:
            return {"enable_thinking": False, "thinking": False, "thinking_budget": 0}
        variables: dict[str, Any] = {}
        if conversation.thought_tokens is not None:
            variables["thinking_budget"] = conversation.thought_tokens
        if effort is not None:
            variables |= dict.fromkeys(EFFORT_VARIABLES, nearest_effort(effort, self._abilities.efforts))
        return variables | ({"thinking": True} if wanted or effort is not None else {})

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
        cut = rendered.cut(end)
        thought, text = self._form.thought, last.content.lstrip()
        if thought and text.startswith(thought.start.strip()) and thought.end.strip() not in text:
            return Prompt(cut, in_thought=True)
        # Some templates strip what they show.
        return Prompt(cut, begun=last.content if cut.text.endswith(last.content) else text)

    def _is_in_thought(self, text: str) -> bool:
        thought = self._form.thought
        return thought is not None and text.rstrip().endswith(thought.start.strip() or "\0")

    def _has_closed_thought(self, text: str) -> bool:
        thought = self._form.thought
        if thought is None or not text.rstrip().endswith(thought.end.strip()):
            return False
        before = text.rstrip().removesuffix(thought.end.strip()).rstrip()
        # An end that begins the next message stands at the end of every prompt.
        return before.endswith(thought.start.strip()) or thought.end.count("<") <= 1

    def _write_calls(self, calls: Sequence[Call]) -> str:
        return written_calls(self._form.calls or HERMES, calls)
