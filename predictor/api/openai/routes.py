"""OpenAI's routes: chat completions, completions and models.

Source: https://platform.openai.com/docs/api-reference
`GET /models` and `GET /models/{model}` answer KServe's V1 clients as well, which ask the same addresses.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any

import orjson
from fastapi import APIRouter
from starlette.responses import Response

from predictor.api.http.engine_requests import engine_requests
from predictor.api.http.error_forms import OPENAI
from predictor.api.http.errors import last_event
from predictor.api.http.not_enforced import not_enforced_header
from predictor.api.http.streaming import DONE, EventStream, Pings, ending_with_error, interleaved
from predictor.api.openai.answer_form import read_answer_form
from predictor.api.openai.answers import ChunkWriter, Envelope, TextLogprobs, Usage, wants_chunk
from predictor.api.openai.chat import chat_completion
from predictor.api.openai.echo import Echo, read_echoes
from predictor.api.openai.types import ChatCompletionRequest, CompletionRequest, Prompt
from predictor.generation.infill import Gap, infill_prompts
from predictor.generation.served_models import ServedModels
from predictor.generation.streams import RequestStream
from predictor.generation.text import Completion, TextGenerator

OWNER = "kserve-llamacpp"


def openai_router(models: ServedModels, ping_seconds: float = 0) -> APIRouter:
    """The routes, to be mounted under `/v1` and `/openai/v1`.

    Args:
        models: what answers.
        ping_seconds: of silence before a stream shows that it lives; 0 for never.
    """
    pings = Pings(ping_seconds)
    router = APIRouter(tags=["OpenAI"])

    @router.post("/chat/completions", response_model=None)
    async def chat_completions(body: ChatCompletionRequest) -> Response:
        return await chat_completion(models.get(body.model), body, pings)

    @router.post("/completions", response_model=None)
    async def completions(body: CompletionRequest) -> Response:
        return await _complete(models.get(body.model), body, pings)

    @router.get("/models", response_model=None)
    async def list_models() -> dict[str, Any]:
        entries = [_model(models, name) for name in models.names]
        return {"object": "list", "data": entries, "models": models.names}

    @router.get("/models/{model:path}", response_model=None)
    async def get_model(model: str) -> dict[str, Any]:
        models.find(model)
        return {**_model(models, model), "name": model, "ready": True}

    return router


async def _complete(generator: TextGenerator, body: CompletionRequest, pings: Pings) -> Response:
    generator.check_count(body.prompt_count * body.choices)
    params = body.params()
    texts = body.prompts()
    prompts = await _tokens(generator, body, texts)
    echoes = read_echoes(generator, body, texts, prompts)
    form = read_answer_form(body)
    make_constraint = None if form is None else await generator.constraints.whole(form.grammar)
    headers = not_enforced_header(make_constraint.not_enforced if make_constraint else ())
    requests = engine_requests(
        prompts,
        params,
        body.choices,
        make_constraint,
        wants_progress=body.wants_progress,
        scores_prompt=body.scores_prompt,
    )
    envelope = Envelope.new("cmpl", "text_completion", generator.name)
    if body.stream:
        writer = ChunkWriter(envelope, include_usage=body.include_usage)
        streams = generator.submit(requests)
        usage = Usage(sum(map(len, prompts))) if body.include_usage else None
        events = _text_events(streams, writer, usage, body, echoes)
        return EventStream(ending_with_error(events, last_event(OPENAI)), streams, headers, pings)
    results = await generator.complete(requests)
    choices = [
        _text_choice(i, result, echoes[i], body.logprobs is not None) for i, result in enumerate(results)
    ]
    return _json(envelope.whole(choices, Usage.of(results, body.choices)), headers)


async def _tokens(
    generator: TextGenerator, body: CompletionRequest, texts: Sequence[Prompt]
) -> list[tuple[int, ...]]:
    if body.suffix:
        return await infill_prompts(generator, [Gap(text, body.suffix) for text in texts], "suffix")
    tokens = iter(await generator.tokenize_all([text for text in texts if isinstance(text, str)]))
    return [next(tokens) if isinstance(text, str) else text for text in texts]


async def _text_events(
    streams: Sequence[RequestStream],
    writer: ChunkWriter,
    usage: Usage | None,
    body: CompletionRequest,
    echoes: Sequence[Echo],
) -> AsyncGenerator[bytes, None]:
    logprobs = [TextLogprobs() for _ in streams] if body.logprobs is not None else None
    for index, echo in enumerate(echoes):
        if echo.text:
            entries = logprobs[index].of((), echo.first_piece) if logprobs else None
            yield writer.text(index, echo.text, entries, None)
    async for index, delta in interleaved(streams):
        if delta.progress is not None:
            yield writer.progress(index, b'"text":""', delta.progress)
            continue
        finish = delta.finish_reason
        if finish is not None and usage is not None:
            usage.completion_tokens += delta.completion_tokens
            usage.cached_tokens += delta.cached_tokens if index % body.choices == 0 else 0
        if finish is not None or wants_chunk(delta):
            scored = (*delta.prompt_logprobs, *delta.logprobs)
            entries = logprobs[index].of(scored) if logprobs else None
            yield writer.text(index, delta.text, entries, finish.value if finish else None)
    if usage is not None:
        yield writer.usage(usage)
    yield DONE


def _text_choice(index: int, result: Completion, echo: Echo, with_logprobs: bool) -> dict[str, Any]:
    scored = (*result.prompt_logprobs, *result.logprobs)
    return {
        "index": index,
        "text": echo.text + result.text,
        "logprobs": TextLogprobs().of(scored, echo.first_piece) if with_logprobs else None,
        "finish_reason": result.finish_reason.value,
    }


def _model(models: ServedModels, name: str) -> dict[str, Any]:
    entry = {
        "id": name,
        "object": "model",
        "created": models.created,
        "owned_by": OWNER,
        "parent": models.parent(name),
    }
    capabilities = models.capabilities(name)
    if capabilities is None:
        return entry
    # The length is under vLLM's name and OpenRouter's, for which most clients look.
    length = models.context_tokens(name)
    return {**entry, "capabilities": capabilities, "max_model_len": length, "context_length": length}


def _json(payload: dict[str, Any], headers: dict[str, str]) -> Response:
    return Response(orjson.dumps(payload), headers=headers, media_type="application/json")
