"""`POST /responses` and `POST /responses/input_tokens`, stateless.

Source: https://platform.openai.com/docs/api-reference/responses
"""

from __future__ import annotations

from typing import Any

import orjson
from fastapi import APIRouter
from starlette.responses import Response

from predictor.api.chat.asking import ask_chat
from predictor.api.chat.blocks import BlockAnswer
from predictor.api.chat.fields import continues_last
from predictor.api.chat.wishes import AnswerForm, make_wish
from predictor.api.http.streaming import EventStream, Pings, ending_with_error
from predictor.api.openai.answer_form import read_format
from predictor.api.openai.responses.answer import ResponseEnvelope
from predictor.api.openai.responses.events import ResponseEvents
from predictor.api.openai.responses.items import read_input
from predictor.api.openai.responses.tools import ResponseTools, read_choice, read_response_tools
from predictor.api.openai.responses.types import InputTokensRequest, ResponsesRequest
from predictor.chat.prompting import Conversation
from predictor.generation.chat import ChatRequest
from predictor.generation.served_models import ServedModels
from predictor.generation.text import TextGenerator


def responses_router(models: ServedModels, ping_seconds: float = 0) -> APIRouter:
    """The routes, to be mounted where OpenAI's others are.

    Args:
        models: what answers.
        ping_seconds: of silence before a stream shows that it lives; 0 for never.
    """
    pings = Pings(ping_seconds)
    router = APIRouter(tags=["OpenAI Responses"])

    @router.post("/responses", response_model=None)
    async def responses(body: ResponsesRequest) -> Response:
        return await _respond(models.get(body.model), body, pings)

    @router.post("/responses/input_tokens", response_model=None)
    async def input_tokens(body: InputTokensRequest) -> dict[str, Any]:
        body.refuse_stored()
        chat, _ = read_chat(body)
        tokens = await models.get(body.model).tokenize_chat(chat.conversation)
        return {"object": "response.input_tokens", "input_tokens": len(tokens)}

    return router


def read_chat(body: ResponsesRequest) -> tuple[ChatRequest, ResponseTools]:
    """What a request asks for, and its tools by the client's names.

    Raises:
        InvalidRequest: a field is malformed, or two contradict each other.
    """
    messages, further = read_input(body.input, body.instructions)
    given = [*body.tools, *further] if isinstance(body.tools, list) else body.tools or further
    tools, choice = read_choice(body.tool_choice, read_response_tools(given))
    parallel = body.parallel_tool_calls is not False
    shown, wish = make_wish(tools.tools, choice, _form(body), parallel=parallel)
    conversation = Conversation(
        messages,
        shown,
        body.chat_template_kwargs or {},
        body.effort,
        continue_final=continues_last(messages),
    )
    return ChatRequest(conversation, wish), tools


def _form(body: ResponsesRequest) -> AnswerForm | None:
    value = body.text.format if body.text else None
    if value is None:
        return None
    if isinstance(value, dict) and value.get("type") == "json_schema" and "schema" in value:
        value = {"type": "json_schema", "json_schema": value}
    return read_format(value, "text.format")


async def _respond(generator: TextGenerator, body: ResponsesRequest, pings: Pings) -> Response:
    params = body.params()
    chat, tools = read_chat(body)
    asked = await ask_chat(generator, chat, params, not_enforced=tools.not_enforced)
    envelope = ResponseEnvelope(body, generator.name, params, tools, asked.prompt_tokens)
    answer = BlockAnswer(asked)
    if body.stream:
        writer = ResponseEvents(envelope, answer)
        events = ending_with_error(writer.events(), writer.failed)
        return EventStream(events, answer.streams, asked.headers, pings)
    end = await answer.read()
    content = orjson.dumps(envelope.ended(answer.blocks, end))
    return Response(content, headers=dict(asked.headers), media_type="application/json")
