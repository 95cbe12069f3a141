"""A response as it streams: events in OpenAI's order, numbered from 0.

Source: https://platform.openai.com/docs/api-reference/responses-streaming
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from typing import Any

from predictor.api.chat.blocks import Block, BlockAnswer, BlockEnded, BlockKind, BlockPart, BlockStarted
from predictor.api.http.errors import problem_of
from predictor.api.http.events import sse
from predictor.api.openai.answers import chat_logprobs
from predictor.api.openai.responses.answer import ResponseEnvelope, item_id
from predictor.engine.request import FinishReason, TokenLogprob

_PARTS = {BlockKind.THOUGHT: "reasoning_text", BlockKind.TEXT: "output_text"}


class ResponseEvents:
    """The events of one response.

    Args:
        envelope: of the response.
        answer: what is streamed.
    """

    def __init__(self, envelope: ResponseEnvelope, answer: BlockAnswer) -> None:
        self._envelope = envelope
        self._answer = answer
        self._number = 0

    async def events(self) -> AsyncGenerator[bytes, None]:
        """All events; the first two come before anything is computed.

        Raises:
            NotReady: the server was shut down.
            EngineFailure: llama.cpp failed.
        """
        for name in ("created", "in_progress"):
            yield self._event(name, {"response": self._envelope.started()})
        async for step in self._answer.steps():
            match step:
                case BlockStarted(block):
                    for event in self._start(block):
                        yield event
                case BlockPart(block, text, logprobs):
                    if not self._envelope.is_custom(block):
                        yield self._part(block, text, logprobs)
                case BlockEnded(block):
                    for event in self._end(block):
                        yield event
        end = self._answer.end
        assert end is not None
        name = "completed" if end.reason is FinishReason.STOP else "incomplete"
        yield self._event(name, {"response": self._envelope.ended(self._answer.blocks, end)})

    def failed(self, error: Exception) -> bytes:
        """The last event where something went wrong."""
        response = self._envelope.failed(self._answer.blocks, problem_of(error))
        return self._event("failed", {"response": response})

    def _start(self, block: Block) -> Iterator[bytes]:
        item = self._envelope.item(block, is_open=True)
        yield self._event("output_item.added", {"output_index": block.index, "item": item})
        if block.kind is not BlockKind.CALL:
            part = self._envelope.part(block, is_open=True)
            yield self._event("content_part.added", {**_place(block), "part": part})

    def _part(self, block: Block, text: str, logprobs: Sequence[TokenLogprob]) -> bytes:
        if block.kind is BlockKind.CALL:
            return self._event("function_call_arguments.delta", {**_call_place(block), "delta": text})
        fields: dict[str, Any] = {**_place(block), "delta": text}
        if block.kind is BlockKind.TEXT:
            fields["logprobs"] = _logprobs(logprobs)
        return self._event(f"{_PARTS[block.kind]}.delta", fields)

    def _end(self, block: Block) -> Iterator[bytes]:
        item = self._envelope.item(block)
        done: dict[str, Any]
        if self._envelope.is_custom(block):
            text = item["input"]
            yield self._event("custom_tool_call_input.delta", {**_call_place(block), "delta": text})
            yield self._event("custom_tool_call_input.done", {**_call_place(block), "input": text})
        elif block.kind is BlockKind.CALL:
            done = {**_call_place(block), "arguments": item["arguments"]}
            yield self._event("function_call_arguments.done", done)
        else:
            done = {**_place(block), "text": block.text}
            if block.kind is BlockKind.TEXT:
                done["logprobs"] = _logprobs(block.logprobs)
            yield self._event(f"{_PARTS[block.kind]}.done", done)
            part = self._envelope.part(block)
            yield self._event("content_part.done", {**_place(block), "part": part})
        yield self._event("output_item.done", {"output_index": block.index, "item": item})

    def _event(self, name: str, fields: dict[str, Any]) -> bytes:
        kind = f"response.{name}"
        event = sse({"type": kind, "sequence_number": self._number, **fields}, kind)
        self._number += 1
        return event


def _logprobs(entries: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
    """As in items, but without the bytes."""
    return [
        {**_without_bytes(entry), "top_logprobs": [_without_bytes(top) for top in entry["top_logprobs"]]}
        for entry in chat_logprobs(entries)
    ]


def _without_bytes(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {name: entry[name] for name in ("token", "logprob")}


def _call_place(block: Block) -> dict[str, Any]:
    return {"item_id": item_id(block), "output_index": block.index}


def _place(block: Block) -> dict[str, Any]:
    return {**_call_place(block), "content_index": 0}
