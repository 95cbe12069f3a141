"""Requests of OpenAI's chat completions and completions, as far as this server honours them.

A field that would change the answer but is not supported yet is refused rather than ignored; fields that only
label or store a request (`user`, `metadata`, `store`, ...) are ignored. What an answer must look like
(`response_format`, `tools`, ...) is read in `predictor.api.openai.answer_form` and `.output`.
Source: https://platform.openai.com/docs/api-reference
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, FailFast, Field, field_validator

from predictor.api.chat.fields import TemplateVariables
from predictor.api.http.fields import WHOLE, Integer, Text, is_unicode
from predictor.api.openai.answer_form import AnswerFormFields
from predictor.engine.request import MAX_LOGPROBS, SamplingParams
from predictor.errors import InvalidRequest

MAX_CHOICES = 128
DEFAULT_COMPLETION_TOKENS = 16

Prompt = str | tuple[int, ...]


class StreamOptions(BaseModel):
    """`stream_options`: whether a stream ends with a chunk that has the usage."""

    model_config = ConfigDict(strict=True)

    include_usage: bool | None = None


class GenerationRequest(AnswerFormFields):
    """What chat completions and completions share. Without `model`, the one that is served answers."""

    ALIASES: ClassVar[Mapping[str, str]] = {**AnswerFormFields.ALIASES, "n_cmpl": "n"}

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES), WHOLE] | None = None
    return_progress: bool | None = None

    @property
    def choices(self) -> int:
        """Answers wanted per prompt."""
        return self.n or 1

    @property
    def wants_progress(self) -> bool:
        """Whether a stream tells how far its prompts have been read, as llama-server's does."""
        return bool(self.stream and self.return_progress)

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a chunk that has the usage."""
        return bool(self.stream_options and self.stream_options.include_usage)


class ChatCompletionRequest(GenerationRequest):
    """Body of `POST /v1/chat/completions`. Without `max_tokens` an answer ends when the context is full."""

    ALIASES: ClassVar[Mapping[str, str]] = {
        **GenerationRequest.ALIASES,
        **dict.fromkeys(
            ("reasoning_budget_tokens", "thinking_budget_tokens", "thinking_token_budget"), "thinking_budget"
        ),
    }

    messages: Annotated[list[dict[str, Any]], FailFast()]
    max_completion_tokens: Integer | None = None
    logprobs: bool | None = None
    top_logprobs: Integer | None = None
    tools: Any = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    functions: Any = None
    function_call: Any = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    chat_template_kwargs: TemplateVariables | None = None
    thinking_budget: Annotated[int, Field(ge=0), WHOLE] | None = None
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None
    modalities: Any = None
    audio: Any = None
    web_search_options: Any = None

    @field_validator("thinking_budget", mode="before")
    @classmethod
    def _no_limit(cls, value: Any) -> Any:
        return None if value == -1 else value

    def params(self) -> SamplingParams:
        """The engine's parameters; without a limit, an answer ends when the context is full.

        Raises:
            InvalidRequest: a value is out of range, or a field is not supported yet.
        """
        self._refuse_unsupported()
        if self.top_logprobs and not self.logprobs:
            raise InvalidRequest("top_logprobs needs logprobs: true", param="top_logprobs")
        top = (self.top_logprobs or 0) if self.logprobs else None
        if self.max_completion_tokens is not None:
            return self.model_copy(update={"max_tokens": self.max_completion_tokens}).to_params(
                None, top_logprobs=top
            )
        return self.to_params(None, top_logprobs=top)

    def _refuse_unsupported(self) -> None:
        if self.modalities not in (None, ["text"]):
            raise _unsupported("modalities", 'only ["text"] is')
        for name in ("functions", "function_call", "audio", "web_search_options"):
            if getattr(self, name) not in (None, [], "none"):
                raise _unsupported(name)


class CompletionRequest(GenerationRequest):
    """Body of `POST /v1/completions`. `prompt` is a text, a list of texts, token ids or a list of these.

    Without `max_tokens` an answer ends after 16 tokens, as OpenAI's do.
    """

    prompt: Any
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS), WHOLE] | None = None
    echo: bool | None = None
    suffix: Text | None = None
    best_of: Integer | None = None

    @property
    def scores_prompt(self) -> bool:
        """Whether the prompt's tokens come back with their log-probabilities."""
        return bool(self.echo) and self.logprobs is not None

    @property
    def prompt_count(self) -> int:
        """How many prompts there are if `prompt` is well-formed, without a look at more than one of them."""
        value = self.prompt
        return len(value) if isinstance(value, list) and value and not isinstance(value[0], int) else 1

    def prompts(self) -> list[Prompt]:
        """The prompts, each a text or token ids.

        Raises:
            InvalidRequest: `prompt` has another form.
        """
        value = self.prompt
        if isinstance(value, str) or (isinstance(value, list) and value and _all_tokens(value)):
            return [_one_prompt(value)]
        if not isinstance(value, list) or not value:
            raise _bad_prompt()
        return [_one_prompt(item) for item in value]

    def params(self) -> SamplingParams:
        """The engine's parameters.

        Raises:
            InvalidRequest: a value is out of range, or a field is not supported yet.
        """
        if self.suffix and self.scores_prompt:
            raise InvalidRequest("echo together with logprobs can't be used with suffix", param="suffix")
        if self.best_of is not None and self.best_of > 1:
            raise _unsupported("best_of", "only 1 is")
        return self.to_params(DEFAULT_COMPLETION_TOKENS, top_logprobs=self.logprobs)


def _all_tokens(value: Sequence[Any]) -> bool:
    return all(isinstance(item, int) and not isinstance(item, bool) for item in value)


def _one_prompt(item: Any) -> Prompt:
    if isinstance(item, str):
        if not is_unicode(item):
            raise InvalidRequest("prompt must be valid Unicode text, without lone surrogates", param="prompt")
        return item
    if isinstance(item, list) and item and _all_tokens(item):
        return tuple(item)
    raise _bad_prompt()


def _bad_prompt() -> InvalidRequest:
    return InvalidRequest(
        "prompt must be a text, a list of texts, a list of token ids or a list of such lists, and not empty",
        param="prompt",
    )


def _unsupported(name: str, what: str = "") -> InvalidRequest:
    return InvalidRequest(
        f"{name} is not supported yet{'; ' + what if what else ''}: leave it out", param=name
    )
