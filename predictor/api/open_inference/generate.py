"""The generate extension of the Open Inference Protocol: one text in, one text out, whole or streamed.

Source: https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/generate_rest.yaml
Beyond it, a request may carry an `id`, which comes back, and all sampling fields of this server.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import orjson
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict
from starlette.responses import Response

from predictor.api.http.error_forms import KSERVE
from predictor.api.http.errors import last_event
from predictor.api.http.events import sse
from predictor.api.http.fields import Text
from predictor.api.http.middleware import current_request_id
from predictor.api.http.sampling import SamplingFields
from predictor.api.http.sizes import Identifier
from predictor.api.http.streaming import EventStream, Pings, ending_with_error
from predictor.engine.request import Delta, FinishReason, Request, TokenLogprob
from predictor.generation.served_models import ServedModels
from predictor.generation.streams import RequestStream
from predictor.generation.text import TextGenerator

DEFAULT_MAX_TOKENS = 20
"""The protocol's own default."""


class GenerateParameters(SamplingFields):
    """The protocol's `parameters`."""

    details: bool | None = None


class GenerateRequest(BaseModel):
    """Body of both routes."""

    model_config = ConfigDict(strict=True)

    text_input: Text
    parameters: dict[str, Any] | None = None
    id: Identifier | None = None


def generate_router(models: ServedModels, ping_seconds: float = 0) -> APIRouter:
    """The routes, with their full paths.

    Args:
        models: what answers.
        ping_seconds: of silence before a stream shows that it lives; 0 for never.
    """
    pings = Pings(ping_seconds)
    router = APIRouter(prefix="/v2/models", tags=["V2 generate"])

    @router.post("/{model}/generate", response_model=None)
    async def generate(model: str, body: GenerateRequest) -> Response:
        return await (await _Generation.read(models.get(model), body)).whole()

    @router.post("/{model}/generate_stream", response_model=None)
    async def generate_stream(model: str, body: GenerateRequest) -> Response:
        return (await _Generation.read(models.get(model), body)).streamed(pings)

    return router


class _Generation:
    """One call, read and checked."""

    @classmethod
    async def read(cls, generator: TextGenerator, body: GenerateRequest) -> _Generation:
        """The call that a body asks for."""
        return cls(generator, body, await generator.tokenize(body.text_input))

    def __init__(self, generator: TextGenerator, body: GenerateRequest, prompt: tuple[int, ...]) -> None:
        parameters = GenerateParameters.parse(body.parameters or {}, "parameters")
        self._generator = generator
        self._with_details = bool(parameters.details)
        params = parameters.to_params(DEFAULT_MAX_TOKENS, top_logprobs=0 if self._with_details else None)
        request_id = body.id or current_request_id() or uuid.uuid4().hex
        self._request = Request(request_id, prompt, params)
        self._common = {"model_name": generator.name} | ({"id": body.id} if body.id is not None else {})

    async def whole(self) -> Response:
        """The answer in one piece."""
        (result,) = await self._generator.complete([self._request])
        answer: dict[str, Any] = {**self._common, "text_output": result.text}
        if self._with_details:
            answer["details"] = {
                "finish_reason": _finish_reason(result.finish_reason, result.stop_string),
                "logprobs": [_token(entry) for entry in result.logprobs],
            }
        return Response(orjson.dumps(answer), media_type="application/json")

    def streamed(self, pings: Pings) -> Response:
        """The answer as server-sent events."""
        streams = self._generator.submit([self._request])
        return EventStream(ending_with_error(self._events(streams), last_event(KSERVE)), streams, pings=pings)

    async def _events(self, streams: Sequence[RequestStream]) -> AsyncGenerator[bytes, None]:
        async for delta in streams[0]:
            if not self._with_details:
                if delta.text or delta.finish_reason is not None:
                    yield sse({**self._common, "text_output": delta.text})
                continue
            # One event per token, as the protocol has it; the text comes with the token that completed it.
            *earlier, last = delta.logprobs or (None,)
            for entry in earlier:
                yield self._event(delta, "", entry, last=False)
            if last is not None or delta.finish_reason is not None:
                yield self._event(delta, delta.text, last, last=True)

    def _event(self, delta: Delta, text: str, entry: TokenLogprob | None, *, last: bool) -> bytes:
        reason = delta.finish_reason if last else None
        details = {
            "finish_reason": None if reason is None else _finish_reason(reason, delta.stop_string),
            "token": None if entry is None else _token(entry),
        }
        return sse({**self._common, "text_output": text, "details": details})


def _finish_reason(reason: FinishReason, stop_string: str | None) -> str:
    if reason is FinishReason.LENGTH:
        return "length"
    return "eos_token" if stop_string is None else "stop_sequence"


def _token(entry: TokenLogprob) -> dict[str, Any]:
    # Control tokens have no text of their own.
    return {
        "id": entry.token,
        "text": entry.piece.decode("utf-8", errors="replace"),
        "logprob": entry.logprob,
        "special": not entry.piece,
    }
