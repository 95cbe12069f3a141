"""Requests of Anthropic's Messages API.

Fields that bill, label or place a request change no answer and are passed over, as are `cache_control`,
since every prompt's beginning is looked for in the cache, and headers of versions and betas.
Source: https://docs.anthropic.com/en/api/messages
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from predictor.api.chat.fields import TemplateVariables
from predictor.api.http.fields import Integer
from predictor.api.http.sampling import SamplingFields
from predictor.engine.request import SamplingParams


class Thinking(BaseModel):
    """`thinking`: whether the model thinks before it answers, and for how long at most."""

    model_config = ConfigDict(strict=True)

    type: Literal["enabled", "disabled", "adaptive", "between_tools"]
    budget_tokens: Integer | None = Field(default=None, ge=0)
    display: Literal["summarized", "omitted"] | None = None


class OutputConfig(BaseModel):
    """`output_config`: how much effort an answer is worth, and its form."""

    model_config = ConfigDict(strict=True)

    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    format: Any = None


class CountTokensRequest(SamplingFields):
    """Body of `POST /v1/messages/count_tokens`."""

    ALIASES: ClassVar[Mapping[str, str]] = {**SamplingFields.ALIASES, "stop_sequences": "stop"}

    model: str | None = None
    messages: Any
    system: Any = None
    tools: Any = None
    tool_choice: Any = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    output_format: Any = None
    thread: Any = None
    chat_template_kwargs: TemplateVariables | None = None

    @property
    def effort(self) -> str | None:
        """How much the model is to think, None where that is left to it."""
        if self.thinking is not None and self.thinking.type == "disabled":
            return "none"
        return self.output_config.effort if self.output_config else None

    @property
    def hides_thoughts(self) -> bool:
        """Whether thoughts come without their text."""
        return self.thinking is not None and self.thinking.display == "omitted"


class MessagesRequest(CountTokensRequest):
    """Body of `POST /v1/messages`. Without `max_tokens` an answer ends when the context is full."""

    stream: bool | None = None

    def params(self) -> SamplingParams:
        """The engine's parameters.

        Raises:
            InvalidRequest: a value is out of range, or a field is not supported.
        """
        return self.to_params(None)
