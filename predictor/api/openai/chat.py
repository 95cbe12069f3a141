"""OpenAI's chat completions.

Source: https://platform.openai.com/docs/api-reference/chat
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import Any

import orjson
from starlette.responses import Response

from predictor.api.chat.asking import ask_chat
from predictor.api.http.error_forms import OPENAI
from predictor.api.http.errors import last_event
from predictor.api.http.streaming import DONE, NO_PINGS, EventStream, Pings, ending_with_error, interleaved
from predictor.api.openai.answers import ChunkWriter, Envelope, Usage, chat_logprobs
from predictor.api.openai.output import read_chat
from predictor.api.openai.types import ChatCompletionRequest
from predictor.chat.events import ArgumentsPart, CallStarted, Event, Text, Thought
from predictor.engine.request import Delta, FinishReason
from predictor.generation.chat import ChatAnswer, ChatReader
from predictor.generation.streams import RequestStream
from predictor.generation.text import TextGenerator

TOOL_CALLS = "tool_calls"


async def chat_completion(
    generator: TextGenerator, body: ChatCompletionRequest, pings: Pings = NO_PINGS
) -> Response:
    """The answer to `POST /chat/completions`.

    Raises:
        PredictorError: the request can't be served.
    """
    params = body.params()
    asked = await ask_chat(
        generator, read_chat(body), params, body.choices, wants_progress=body.wants_progress
    )
    if body.stream:
        envelope = Envelope.new("chatcmpl", "chat.completion.chunk", generator.name)
        writer = ChunkWriter(envelope, include_usage=body.include_usage)
        streams = asked.start()
        choices = [_StreamedChoice(i, writer, r, bool(body.logprobs)) for i, r in enumerate(asked.readers)]
        events = _events(streams, choices, writer, Usage(asked.prompt_tokens) if body.include_usage else None)
        return EventStream(ending_with_error(events, last_event(OPENAI)), streams, asked.headers, pings)
    answers = await asked.answers()
    whole = [_choice(i, answer, bool(body.logprobs)) for i, answer in enumerate(answers)]
    usage = Usage.of(answers, body.choices)
    for answer in answers:
        usage.add_reasoning(answer.reasoning_tokens)
    envelope = Envelope.new("chatcmpl", "chat.completion", generator.name)
    answer_body = orjson.dumps(envelope.whole(whole, usage))
    return Response(answer_body, headers=dict(asked.headers), media_type="application/json")


class _StreamedChoice:
    """Turns one choice's deltas into chunks.

    Args:
        index: of the choice.
        writer: serialises the chunks.
        reader: tells thoughts, text and calls apart.
        with_logprobs: whether the chunks carry log-probabilities.
    """

    def __init__(self, index: int, writer: ChunkWriter, reader: ChatReader, with_logprobs: bool) -> None:
        self.reader = reader
        self._index = index
        self._writer = writer
        self._with_logprobs = with_logprobs
        self._started = False

    def chunks(self, delta: Delta) -> Iterator[bytes]:
        """The chunks that a delta gives rise to."""
        if not self._started:
            self._started = True
            yield self._writer.chat_start(self._index)
        if delta.progress is not None:
            yield self._writer.progress(self._index, b'"delta":{}', delta.progress)
            return
        logprobs = chat_logprobs(delta.logprobs) if self._with_logprobs else None
        events = self.reader.push(delta)
        if all(isinstance(event, Text) for event in events):
            text = "".join(event.text for event in events if isinstance(event, Text))
            if text or logprobs:
                yield self._writer.chat(self._index, text, logprobs)
        else:
            if logprobs:  # A token of a mark has no text of its own to go with.
                yield self._writer.chat(self._index, "", logprobs)
            yield from map(self._chunk, events)
        if delta.finish_reason is not None:
            reason = _finish_reason(delta.finish_reason, self.reader.has_calls)
            yield self._writer.chat_end(self._index, reason)

    def _chunk(self, event: Event) -> bytes:
        match event:
            case Thought(text):
                return self._writer.thought(self._index, text)
            case Text(text):
                return self._writer.chat(self._index, text, None)
            case CallStarted(call, name):
                return self._writer.call_start(self._index, call, _call_id(), name)
            case ArgumentsPart(call, text):
                return self._writer.call_arguments(self._index, call, text)


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
            usage.add_reasoning(choices[index].reader.reasoning_tokens)
    if usage is not None:
        yield writer.usage(usage)
    yield DONE


def _choice(index: int, answer: ChatAnswer, with_logprobs: bool) -> dict[str, Any]:
    logprobs = {"content": chat_logprobs(answer.logprobs), "refusal": None} if with_logprobs else None
    return {
        "index": index,
        "message": _message(answer.events),
        "logprobs": logprobs,
        "finish_reason": _finish_reason(answer.finish_reason, answer.has_calls),
    }


def _message(events: Sequence[Event]) -> dict[str, Any]:
    thought, content = "", ""
    calls: list[dict[str, Any]] = []
    for event in events:
        match event:
            case Thought(text):
                thought += text
            case Text(text):
                content += text
            case CallStarted(_, name):
                function = {"name": name, "arguments": ""}
                calls.append({"id": _call_id(), "type": "function", "function": function})
            case ArgumentsPart(_, text):
                calls[-1]["function"]["arguments"] += text
    message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
    if thought:
        message |= {"reasoning_content": thought, "reasoning": thought}
    if calls:
        message |= {"content": content or None, "tool_calls": calls}
    return message


def _finish_reason(reason: FinishReason, has_calls: bool) -> str:
    """OpenAI's finish reason, once the whole answer has been read."""
    return TOOL_CALLS if reason is FinishReason.STOP and has_calls else reason.value


def _call_id() -> str:
    return f"call_{uuid.uuid4().hex[:24]}"
