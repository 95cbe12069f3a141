"""`POST /v1/messages` and `POST /v1/messages/count_tokens`.

Source: https://docs.anthropic.com/en/api/messages
"""

from __future__ import annotations

import orjson
from fastapi import APIRouter
from starlette.responses import Response

from predictor.api.anthropic.answer import PING, MessageForm
from predictor.api.anthropic.conversation import read_chat
from predictor.api.anthropic.types import CountTokensRequest, MessagesRequest
from predictor.api.chat.asking import ask_chat
from predictor.api.chat.blocks import BlockAnswer
from predictor.api.http.error_forms import ANTHROPIC
from predictor.api.http.errors import last_event
from predictor.api.http.middleware import current_request_id
from predictor.api.http.streaming import EventStream, Pings, ending_with_error
from predictor.generation.served_models import ServedModels
from predictor.generation.text import TextGenerator


def messages_router(models: ServedModels, ping_seconds: float = 0) -> APIRouter:
    """The routes, to be mounted under `/v1`.

    Args:
        models: what answers.
        ping_seconds: of silence before a stream shows that it lives; 0 for never.
    """
    pings = Pings(ping_seconds, PING)
    router = APIRouter(tags=["Anthropic"])

    @router.post("/messages", response_model=None)
    async def messages(body: MessagesRequest) -> Response:
        return await _answer(models.get(body.model), body, pings)

    @router.post("/messages/count_tokens", response_model=None)
    async def count_tokens(body: CountTokensRequest) -> dict[str, int]:
        generator = models.get(body.model)
        tokens = await generator.tokenize_chat(read_chat(body).conversation)
        return {"input_tokens": len(tokens)}

    return router


async def _answer(generator: TextGenerator, body: MessagesRequest, pings: Pings) -> Response:
    asked = await ask_chat(generator, read_chat(body), body.params())
    form = MessageForm(generator.name, asked.prompt_tokens, body.hides_thoughts)
    answer = BlockAnswer(asked)
    if body.stream:
        events = ending_with_error(form.events(answer), last_event(ANTHROPIC, current_request_id()))
        return EventStream(events, answer.streams, asked.headers, pings)
    end = await answer.read()
    content = orjson.dumps(form.whole(answer, end))
    return Response(content, headers=dict(asked.headers), media_type="application/json")
