"""Requests of OpenAI's Responses API, as far as a server that stores nothing honours them.

Source: https://platform.openai.com/docs/api-reference/responses/create
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from predictor.api.chat.fields import TemplateVariables
from predictor.api.http.fields import Integer
from predictor.api.http.sampling import SamplingFields
from predictor.engine.request import SamplingParams
from predictor.errors import InvalidRequest

LOGPROBS = "message.output_text.logprobs"
SEALED_THOUGHTS = "reasoning.encrypted_content"

_NOT_STORED = "this server stores no responses: send the whole conversation in input"
_REFUSED = {
    "previous_response_id": _NOT_STORED,
    "conversation": _NOT_STORED,
    "background": "responses are not made in the background: leave it out, and stream the answer",
    "prompt": "this server has no stored prompts: send its text in instructions and input",
    "moderation": "this server moderates nothing: leave it out",
}

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class Reasoning(BaseModel):
    """`reasoning`: how much the model is to think. Summaries are not made: thoughts are given as they are."""

    model_config = ConfigDict(strict=True)

    effort: Effort | None = None


class TextOptions(BaseModel):
    """`text`: the form of the answer. `verbosity` is a hint that is passed over."""

    model_config = ConfigDict(strict=True)

    format: Any = None


class ResponsesRequest(SamplingFields):
    """Body of `POST /v1/responses`. Without `max_output_tokens` an answer ends when the context is full.

    `store` may be true, as it is by default at OpenAI, but nothing is ever stored.
    """

    ALIASES: ClassVar[Mapping[str, str]] = {**SamplingFields.ALIASES, "max_output_tokens": "max_tokens"}

    model: str | None = None
    input: Any = None
    instructions: str | None = None
    stream: bool | None = None
    tools: Any = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: Reasoning | None = None
    include: list[str] | None = None
    top_logprobs: Integer | None = None
    truncation: Literal["auto", "disabled"] | None = None
    store: bool | None = None
    metadata: dict[str, Any] | None = None
    previous_response_id: Any = None
    conversation: Any = None
    background: bool | None = None
    prompt: Any = None
    moderation: Any = None
    chat_template_kwargs: TemplateVariables | None = None
    user: Any = None
    safety_identifier: Any = None
    prompt_cache_key: Any = None

    @property
    def wants_logprobs(self) -> bool:
        """Whether the answer's text comes with log-probabilities."""
        return LOGPROBS in (self.include or ())

    @property
    def wants_sealed_thoughts(self) -> bool:
        """Whether thoughts come in a form for the next request, too."""
        return SEALED_THOUGHTS in (self.include or ())

    @property
    def effort(self) -> str | None:
        """How much the model is to think, None where that is left to it."""
        return self.reasoning.effort if self.reasoning else None

    def refuse_stored(self) -> None:
        """Refuse what only a server could do that keeps responses.

        Raises:
            InvalidRequest: the request asks for it.
        """
        for name, advice in _REFUSED.items():
            if getattr(self, name):
                raise InvalidRequest(f"{name} is not supported: {advice}", param=name)

    def params(self) -> SamplingParams:
        """The engine's parameters.

        Raises:
            InvalidRequest: a value is out of range, or a field is not supported.
        """
        self.refuse_stored()
        top = (self.top_logprobs or 0) if self.wants_logprobs else None
        return self.to_params(None, top_logprobs=top)


class InputTokensRequest(ResponsesRequest):
    """Body of `POST /v1/responses/input_tokens`."""

    input: Any = Field(default="")
