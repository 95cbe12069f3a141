"""`POST /predict`, the contract of the container this project comes from.

A prompt and a system message in, a llama_cpp completion object out, as `{"response": {...}}`.
"""

from __future__ import annotations

import time
import uuid
from typing import Any

import orjson
from fastapi import APIRouter
from starlette.responses import Response

from predictor.api.http.fields import Text
from predictor.api.http.middleware import current_request_id
from predictor.api.http.sampling import SamplingFields
from predictor.engine.request import Request
from predictor.generation.served_models import ServedModels
from predictor.generation.text import Completion, TextGenerator

DEFAULT_MAX_TOKENS = 1000


class PredictRequest(SamplingFields):
    """Body of the route."""

    prompt: Text
    sys_msg: Text | None = None


def predict_router(models: ServedModels) -> APIRouter:
    """The route; it asks the first model, since its contract names none."""
    router = APIRouter(tags=["predict"])

    @router.post("/predict", response_model=None)
    async def predict(body: PredictRequest) -> Response:
        generator = models.get(models.names[0])
        params = body.to_params(DEFAULT_MAX_TOKENS)
        request_id = current_request_id() or uuid.uuid4().hex
        request = Request(request_id, await _prompt(generator, body), params)
        (result,) = await generator.complete([request])
        answer = {"response": _completion(generator.name, result)}
        return Response(orjson.dumps(answer), media_type="application/json")

    return router


async def _prompt(generator: TextGenerator, body: PredictRequest) -> tuple[int, ...]:
    if generator.chat_format is None or not body.prompt:
        return await generator.tokenize(body.prompt and _llama2_prompt(body.prompt, body.sys_msg))
    messages = [{"role": "user", "content": body.prompt}]
    if body.sys_msg:
        messages.insert(0, {"role": "system", "content": body.sys_msg})
    return await generator.tokenize_chat(messages)


def _llama2_prompt(prompt: str, sys_msg: str | None) -> str:
    """Llama 2's chat format, which the original container filled; the tokenizer adds the `<s>`."""
    system = f"<<SYS>>\n{sys_msg}\n<</SYS>>\n\n" if sys_msg else ""
    return f"[INST] {system}{prompt} [/INST]"


def _completion(model: str, result: Completion) -> dict[str, Any]:
    choice = {
        "text": result.text,
        "index": 0,
        "logprobs": None,
        "finish_reason": result.finish_reason.value,
    }
    return {
        "id": f"cmpl-{uuid.uuid4()}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": model,
        "choices": [choice],
        "usage": {
            "prompt_tokens": result.prompt_tokens,
            "completion_tokens": result.completion_tokens,
            "total_tokens": result.prompt_tokens + result.completion_tokens,
        },
    }
