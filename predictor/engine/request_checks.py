"""Whether a request can ever be served, asked before it is queued."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from predictor.engine.config import EngineConfig
from predictor.engine.llama import Model
from predictor.engine.request import Request
from predictor.errors import InvalidRequest, PromptTooLong

CHARACTERS_OF_A_WORD = 256
"""Taken for the longest token of a vocabulary that makes one of blanks or unknown words of any length."""


@dataclass(frozen=True, slots=True)
class RequestChecks:
    """What one engine can't serve.

    Attributes:
        config: the engine's.
        model: the engine's.
        max_sequence_tokens: the longest a sequence may get, prompt and answer.
        whole_prompts: a prompt must be computed in one step.
    """

    config: EngineConfig
    model: Model
    max_sequence_tokens: int
    whole_prompts: bool

    @property
    def places(self) -> int:
        """Most requests that can run and wait."""
        return self.config.max_sequences + self.config.max_queue

    def check_count(self, requests: int) -> None:
        """Find out whether so many requests can ever be taken together.

        Raises:
            InvalidRequest: they can't.
        """
        if requests > self.places:
            raise InvalidRequest(
                f"{requests} prompts in one call, but at most {self.places} fit: split the call",
                param="prompt",
            )

    def check_length(self, characters: int, param: str) -> None:
        """Find out from its length alone whether a text can fit, before it is tokenized.

        Raises:
            PromptTooLong: even if every token were the vocabulary's longest, there would be too many.
        """
        if characters < self.max_sequence_tokens:
            return
        longest = self.model.longest_token
        least = math.ceil(characters / (longest or CHARACTERS_OF_A_WORD))
        if least >= self.max_sequence_tokens:
            tokens = f"which are at least {least} tokens" if longest else "far more than usual words have"
            raise PromptTooLong(
                f"the {param} has {characters} characters, {tokens}, but the context holds "
                f"{self.max_sequence_tokens} tokens with the answer; {self._remedy()}",
                param=param,
            )

    def check(self, request: Request) -> None:
        """Find what is wrong with a request.

        Raises:
            InvalidRequest: it can never be served; PromptTooLong where it is its length.
        """
        if not request.prompt:
            raise InvalidRequest("the prompt has no tokens", param="prompt")
        if self.config.pooling is not None:
            self._check_pooled_length(len(request.prompt))
        else:
            self._check_length(len(request.prompt))
        if request.adapter is not None and request.adapter not in self.config.adapters:
            raise InvalidRequest(f"there is no adapter {request.adapter!r}", param="model")
        self.check_tokens(request.prompt, "prompt")

    def check_tokens(self, tokens: Sequence[int], param: str) -> None:
        """Make sure that the model has the tokens.

        Raises:
            InvalidRequest: it lacks one.
        """
        if not all(0 <= token < self.model.n_vocab for token in tokens):
            raise InvalidRequest(
                f"a token in {param} is outside the vocabulary of {self.model.n_vocab} tokens", param=param
            )

    def _check_length(self, length: int) -> None:
        if length >= self.max_sequence_tokens:
            raise PromptTooLong(
                f"the prompt has {length} tokens, but the context holds {self.max_sequence_tokens} with the "
                f"answer; {self._remedy()}",
                param="prompt",
            )

    def _remedy(self) -> str:
        option = "--max-sequence-tokens" if self.config.max_sequence_tokens else "--context-tokens"
        return f"shorten it, or start the server with a larger {option}"

    def _check_pooled_length(self, length: int) -> None:
        limits = {self.max_sequence_tokens: ", or start the server with a larger --context-tokens"}
        if self.whole_prompts:
            limits[self.config.max_batch_tokens] = ", or start the server with a larger --max-batch-tokens"
        limits[self.model.trained_context] = ": the model was trained for no more"
        most = min(limits)
        if length > most:
            raise PromptTooLong(
                f"the input has {length} tokens, but at most {most} fit; shorten it{limits[most]}",
                param="input",
            )
