"""Filling gaps in code, in the form of llama-server's `/infill`, which editors' plugins ask.

Source: the README of llama.cpp's `tools/server`.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import orjson
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, FailFast, Field
from starlette.responses import Response

from predictor.api.http.engine_requests import engine_requests
from predictor.api.http.error_forms import OPENAI
from predictor.api.http.errors import last_event
from predictor.api.http.events import sse
from predictor.api.http.fields import Text
from predictor.api.http.sampling import SamplingFields
from predictor.api.http.streaming import EventStream, Pings, ending_with_error
from predictor.engine.request import Delta, FinishReason
from predictor.generation.infill import Gap, Snippet, infill_prompts
from predictor.generation.served_models import ServedModels
from predictor.generation.streams import RequestStream

MAX_SNIPPETS = 1024
# llama-server leaves twice the answer's room; this is for answers without a limit.
_ROOM = 256


class ExtraText(BaseModel):
    """One of `input_extra`."""

    model_config = ConfigDict(strict=True)

    text: Text
    filename: Text = "tmp"


class InfillRequest(SamplingFields):
    """Body of `POST /infill`.

    What bounds an editor's patience, `n_indent`, `t_max_prompt_ms` and `samplers`, is passed over.
    """

    model: str | None = None
    input_prefix: Text = ""
    input_suffix: Text = ""
    input_extra: Annotated[list[ExtraText], FailFast()] = Field([], max_length=MAX_SNIPPETS)
    prompt: Text = ""
    stream: bool | None = None
    t_max_predict_ms: float | None = None
    response_fields: list[str] = Field([], max_length=64)
    n_indent: Any = None
    samplers: Any = None

    def gap(self) -> Gap:
        """What is to be filled: `prompt` is the beginning of the answer."""
        snippets = [Snippet(extra.text, extra.filename) for extra in self.input_extra]
        room = _ROOM if self.max_tokens in (None, -1) else self.max_tokens or 0
        return Gap(self.input_prefix + self.prompt, self.input_suffix, snippets, room)


@dataclass(slots=True)
class _Answer:
    """An answer as far as it has come; times in seconds of the performance counter."""

    model: str
    prompt_tokens: int
    started: float = field(default_factory=time.perf_counter)
    first: float | None = None
    text: str = ""
    last: Delta = field(default_factory=lambda: Delta(""))

    def add(self, delta: Delta) -> None:
        self.first = self.first or time.perf_counter()
        self.text += delta.text
        self.last = delta

    def took_too_long(self, milliseconds: float | None) -> bool:
        """As llama-server counts: from the first token on, and never before a line is complete."""
        if not milliseconds or milliseconds < 0 or self.first is None or "\n" not in self.text:
            return False
        return (time.perf_counter() - self.first) * 1000 > milliseconds

    def piece(self) -> dict[str, Any]:
        return {
            "index": 0,
            "content": self.last.text,
            "tokens": [],
            "stop": False,
            "id_slot": -1,
            "tokens_predicted": self.last.completion_tokens,
            "tokens_evaluated": self.prompt_tokens,
        }

    def whole(self, content: str) -> dict[str, Any]:
        stop = self.last.stop_string
        by_itself = self.last.finish_reason is FinishReason.STOP
        return {
            **self.piece(),
            "content": content,
            "model": self.model,
            "stop": True,
            "has_new_line": "\n" in self.text,
            "truncated": False,
            "stop_type": "word" if stop else "eos" if by_itself else "limit",
            "stopping_word": stop or "",
            "tokens_cached": self.last.cached_tokens,
            "timings": self._timings(),
        }

    def _timings(self) -> dict[str, float]:
        read = self.prompt_tokens - self.last.cached_tokens
        first = self.first or time.perf_counter()
        return {
            "cache_n": self.last.cached_tokens,
            **_rates("prompt", read, first - self.started),
            **_rates("predicted", self.last.completion_tokens, time.perf_counter() - first),
        }


def infill_router(models: ServedModels, ping_seconds: float) -> APIRouter:
    """The route, to be mounted at the root.

    Args:
        models: what is served.
        ping_seconds: see `Pings`.
    """
    router = APIRouter(tags=["llama-server and vLLM"])

    @router.post("/infill", response_model=None)
    async def infill(body: InfillRequest) -> Response:
        generator = models.get(body.model)
        params = body.to_params(None)
        prompts = await infill_prompts(generator, [body.gap()], "input_prefix")
        streams = generator.submit(engine_requests(prompts, params, 1, None))
        events = _events(streams[0], _Answer(generator.name, len(prompts[0])), body)
        if body.stream:
            ending = ending_with_error(_as_bytes(events), last_event(OPENAI))
            return EventStream(ending, streams, pings=Pings(ping_seconds))
        try:
            pieces = [piece async for piece in events]
        finally:
            streams[0].cancel()
        content = "".join(piece["content"] for piece in pieces)
        return Response(
            orjson.dumps(_picked({**pieces[-1], "content": content}, body)), media_type="application/json"
        )

    return router


async def _as_bytes(events: AsyncGenerator[dict[str, Any], None]) -> AsyncGenerator[bytes, None]:
    async for event in events:
        yield sse(event)


async def _events(
    stream: RequestStream, answer: _Answer, body: InfillRequest
) -> AsyncGenerator[dict[str, Any], None]:
    async for delta in stream:
        answer.add(delta)
        if delta.text:
            yield answer.piece()
        if answer.took_too_long(body.t_max_predict_ms):
            stream.cancel()
            break
    yield answer.whole("")


def _picked(answer: Mapping[str, Any], body: InfillRequest) -> Mapping[str, Any]:
    """Only the wanted fields, under their whole path, such as `timings/prompt_n`."""
    if not body.response_fields:
        return answer
    picked = {}
    for path in body.response_fields:
        value: Any = answer
        for name in path.split("/"):
            value = value.get(name) if isinstance(value, dict) else None
        if value is not None:
            picked[path] = value
    return picked


def _rates(what: str, tokens: int, seconds: float) -> dict[str, float]:
    milliseconds = seconds * 1000
    return {
        f"{what}_n": tokens,
        f"{what}_ms": milliseconds,
        f"{what}_per_token_ms": milliseconds / tokens if tokens else 0.0,
        f"{what}_per_second": tokens / seconds if seconds > 0 else 0.0,
    }
