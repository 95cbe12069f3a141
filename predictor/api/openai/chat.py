"""OpenAI's chat completions.

Source: https://platform.openai.com/docs/api-reference/chat
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import Any

import orjson
from starlette.responses import Response

from predictor.api.http.errors import openai_error
from predictor.api.http.streaming import DONE, EventStream, ending_with_error, interleaved
from predictor.api.openai.answer_form import not_enforced_header
from predictor.api.openai.answers import ChunkWriter, Envelope, Usage, chat_logprobs, wants_chunk
from predictor.api.openai.output import read_output_form
from predictor.api.openai.requests import engine_requests
from predictor.api.openai.types import ChatCompletionRequest
from predictor.chat.tool_calls import ArgumentsPart, CallStarted, Text, ToolCallReader
from predictor.engine.request import Delta, FinishReason
from predictor.generation.text import Completion, RequestStream, TextGenerator

TOOL_CALLS = "tool_calls"


async def chat_completion(generator: TextGenerator, body: ChatCompletionRequest) -> Response:
    """The answer to `POST /chat/completions`.

    Raises:
        PredictorError: the request can't be served.
    """
    generator.check_count(body.choices)
    params = body.params()
    form = await read_output_form(body, generator.constraints)
    prompt = await generator.tokenize_chat(body.messages, form.tools)
    headers = not_enforced_header(form.make_constraint)
    requests = engine_requests([prompt], params, body.choices, form.make_constraint)
    readers = [ToolCallReader() if form.tools else None for _ in requests]
    if body.stream:
        envelope = Envelope.new("chatcmpl", "chat.completion.chunk", generator.name)
        writer = ChunkWriter(envelope, include_usage=body.include_usage)
        streams = generator.submit(requests)
        choices = [_StreamedChoice(i, writer, r, bool(body.logprobs)) for i, r in enumerate(readers)]
        events = _events(streams, choices, writer, Usage(len(prompt)) if body.include_usage else None)
        return EventStream(ending_with_error(events, openai_error), streams, headers)
    results = await generator.complete(requests)
    whole = [
        _choice(i, result, reader, bool(body.logprobs))
        for i, (result, reader) in enumerate(zip(results, readers, strict=True))
    ]
    envelope = Envelope.new("chatcmpl", "chat.completion", generator.name)
    answer = envelope.whole(whole, Usage.of(results, body.choices))
    return Response(orjson.dumps(answer), headers=headers, media_type="application/json")


class _StreamedChoice:
    """Turns one choice's deltas into chunks.

    Args:
        index: of the choice.
        writer: serialises the chunks.
        reader: finds tool calls in the text, None where there are no tools.
        with_logprobs: whether the chunks carry log-probabilities.
    """

    def __init__(
        self, index: int, writer: ChunkWriter, reader: ToolCallReader | None, with_logprobs: bool
    ) -> None:
        self._index = index
        self._writer = writer
        self._reader = reader
        self._with_logprobs = with_logprobs
        self._started = False

    def chunks(self, delta: Delta) -> Iterator[bytes]:
        """The chunks that a delta gives rise to."""
        if not self._started:
            self._started = True
            yield self._writer.chat_start(self._index)
        logprobs = chat_logprobs(delta.logprobs) if self._with_logprobs else None
        if self._reader is None:
            if wants_chunk(delta):
                yield self._writer.chat(self._index, delta.text, logprobs)
        else:
            yield from self._with_calls(self._reader, delta, logprobs)
        if delta.finish_reason is not None:
            yield self._writer.chat_end(self._index, _finish_reason(delta.finish_reason, self._reader))

    def _with_calls(
        self, reader: ToolCallReader, delta: Delta, logprobs: list[dict[str, Any]] | None
    ) -> Iterator[bytes]:
        if logprobs:  # A token of a call has no text of its own to go with.
            yield self._writer.chat(self._index, "", logprobs)
        events = reader.push(delta.text)
        if delta.finish_reason is not None:
            events += reader.finish()
        for event in events:
            match event:
                case Text(text):
                    yield self._writer.chat(self._index, text, None)
                case CallStarted(call, name):
                    yield self._writer.call_start(self._index, call, _call_id(), name)
                case ArgumentsPart(call, text):
                    yield self._writer.call_arguments(self._index, call, text)


async def _events(
    streams: Sequence[RequestStream],
    choices: Sequence[_StreamedChoice],
    writer: ChunkWriter,
    usage: Usage | None,
) -> AsyncGenerator[bytes, None]:
    async for index, delta in interleaved(streams):
        for chunk in choices[index].chunks(delta):
            yield chunk
        if delta.finish_reason is not None and usage is not None:
            usage.completion_tokens += delta.completion_tokens
            usage.cached_tokens = delta.cached_tokens if index == 0 else usage.cached_tokens
    if usage is not None:
        yield writer.usage(usage)
    yield DONE


def _choice(
    index: int, result: Completion, reader: ToolCallReader | None, with_logprobs: bool
) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": result.text, "refusal": None}
    if reader is not None:
        message |= _content_and_calls(reader, result.text)
    logprobs = {"content": chat_logprobs(result.logprobs), "refusal": None} if with_logprobs else None
    return {
        "index": index,
        "message": message,
        "logprobs": logprobs,
        "finish_reason": _finish_reason(result.finish_reason, reader),
    }


def _content_and_calls(reader: ToolCallReader, answer: str) -> dict[str, Any]:
    content = ""
    calls: list[dict[str, Any]] = []
    for event in reader.push(answer) + reader.finish():
        match event:
            case Text(text):
                content += text
            case CallStarted(_, name):
                function = {"name": name, "arguments": ""}
                calls.append({"id": _call_id(), "type": "function", "function": function})
            case ArgumentsPart(_, text):
                calls[-1]["function"]["arguments"] += text
    if not calls:
        return {"content": content}
    return {"content": content or None, "tool_calls": calls}


def _finish_reason(reason: FinishReason, reader: ToolCallReader | None) -> str:
    """OpenAI's finish reason, once the whole answer has been read."""
    if reason is FinishReason.STOP and reader is not None and reader.calls:
        return TOOL_CALLS
    return reason.value


def _call_id() -> str:
    return f"call_{uuid.uuid4().hex[:24]}"
