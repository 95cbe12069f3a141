"""Tokens of texts and texts of tokens, and what a chat template makes of messages.

llama-server and vLLM both have `/tokenize` and `/detokenize`, with other fields; a body's own fields tell
which is meant. `/apply-template` is llama-server's.
Sources: the README of llama.cpp's `tools/server`, and vLLM's `entrypoints/serve/tokenize/protocol.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import orjson
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, FailFast, ValidationError
from starlette.responses import Response

from predictor.api.http.errors import describe_validation
from predictor.api.http.fields import Integer, Text, is_unicode
from predictor.api.http.foreign_fields import refuse_foreign
from predictor.api.openai.output import read_chat
from predictor.api.openai.types import ChatCompletionRequest
from predictor.errors import InvalidRequest
from predictor.generation import tokens
from predictor.generation.served_models import ServedModels
from predictor.generation.tokens import TokenEngine

_CONTENT, _PROMPT, _MESSAGES = _FORMS = ("content", "prompt", "messages")
# What vLLM's form with messages shares with a chat completion.
_CHAT_FIELDS = (_MESSAGES, "tools", "chat_template_kwargs", "add_generation_prompt", "continue_final_message")


class TokenizeRequest(BaseModel):
    """Body of `POST /tokenize`: `content` in llama-server's form, `prompt` or `messages` in vLLM's."""

    model_config = ConfigDict(strict=True, extra="allow")

    model: str | None = None
    content: Any = None
    add_special: bool | None = None
    parse_special: bool | None = None
    with_pieces: bool | None = None
    prompt: Text | None = None
    messages: Any = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None

    def form(self) -> str:
        """Which of the fields has what is to be tokenized.

        Raises:
            InvalidRequest: none has, or two have.
        """
        given = [name for name in _FORMS if getattr(self, name) is not None]
        if len(given) != 1:
            what = (
                f"{given[0]} and {given[1]} exclude each other" if given else "there is nothing to tokenize"
            )
            raise InvalidRequest(
                f"{what}: send content (llama-server's form), prompt or messages (vLLM's forms)",
                param=given[1] if given else _CONTENT,
            )
        return given[0]

    def parts(self) -> list[str | int]:
        """The texts of `content`, among which there may be tokens.

        Raises:
            InvalidRequest: `content` has another form.
        """
        items = self.content if isinstance(self.content, list) else [self.content]
        for item in items:
            if isinstance(item, bool) or not (
                isinstance(item, int) or (isinstance(item, str) and is_unicode(item))
            ):
                raise InvalidRequest("content must be a text, or a list of texts and tokens", param=_CONTENT)
        return items


class DetokenizeRequest(BaseModel):
    """Body of `POST /detokenize`."""

    model_config = ConfigDict(strict=True)

    model: str | None = None
    tokens: Annotated[list[Integer], FailFast()]


def tokens_router(models: ServedModels) -> APIRouter:
    """The routes, to be mounted at the root."""
    router = APIRouter(tags=["llama-server and vLLM"])

    @router.post("/tokenize", response_model=None)
    async def tokenize(body: TokenizeRequest) -> Response:
        return _json(await _tokenize(models, body))

    @router.post("/detokenize", response_model=None)
    async def detokenize(body: DetokenizeRequest) -> Response:
        text = await tokens.detokenize(models.any(body.model).engine, body.tokens, "tokens")
        # The two servers' requests are alike, and their answers have no field in common.
        return _json({"content": text, "prompt": text})

    @router.post("/apply-template", response_model=None)
    async def apply_template(body: ChatCompletionRequest) -> Response:
        refuse_foreign(body.model_extra or {})
        prompt, _ = await models.get(body.model).show_chat(read_chat(body).conversation)
        return _json({"prompt": prompt})

    return router


async def _tokenize(models: ServedModels, body: TokenizeRequest) -> dict[str, Any]:
    form = body.form()
    if form == _MESSAGES:
        generator = models.get(body.model)
        _, shown = await generator.show_chat(read_chat(_chat(body)).conversation)
        return await _vllm_answer(generator.engine, shown, body)
    engine = models.any(body.model).engine
    if form == _PROMPT:
        special = body.add_special_tokens is not False
        found = await tokens.tokenize(
            engine, [body.prompt or ""], _PROMPT, add_special=special, parse_special=True
        )
        return await _vllm_answer(engine, found, body)
    found = await tokens.tokenize(
        engine,
        body.parts(),
        _CONTENT,
        add_special=bool(body.add_special),
        parse_special=body.parse_special is not False,
    )
    if not body.with_pieces:
        return {"tokens": found}
    pieces = await tokens.shown_pieces(engine, found, _CONTENT)
    return {
        "tokens": [
            {"id": token, "piece": _text_or_bytes(piece)} for token, piece in zip(found, pieces, strict=True)
        ]
    }


def _chat(body: TokenizeRequest) -> ChatCompletionRequest:
    given = {**(body.model_extra or {}), _MESSAGES: body.messages}
    if body.add_special_tokens:
        raise InvalidRequest(
            "add_special_tokens can't be used with messages: the chat template writes BOS where it is wanted",
            param="add_special_tokens",
        )
    refuse_foreign(given)
    try:
        return ChatCompletionRequest.model_validate({name: given.get(name) for name in _CHAT_FIELDS})
    except ValidationError as error:
        raise describe_validation(error.errors()) from None


async def _vllm_answer(engine: TokenEngine, found: Sequence[int], body: TokenizeRequest) -> dict[str, Any]:
    texts = None
    if body.return_token_strs:
        pieces = await tokens.shown_pieces(engine, found, _PROMPT)
        texts = [piece.decode("utf-8", "replace") for piece in pieces]
    return {
        "count": len(found),
        "max_model_len": engine.max_sequence_tokens,
        "tokens": found,
        "token_strs": texts,
    }


def _text_or_bytes(piece: bytes) -> str | list[int]:
    """A part of a character has no text."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return list(piece)


def _json(payload: dict[str, Any]) -> Response:
    return Response(orjson.dumps(payload), media_type="application/json")
