"""A message of the Messages API: whole, and event by event.

Sources: https://docs.anthropic.com/en/api/messages, https://docs.anthropic.com/en/api/messages-streaming
"""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any

from predictor.api.chat.blocks import (
    AnswerEnd,
    Block,
    BlockAnswer,
    BlockEnded,
    BlockKind,
    BlockPart,
    BlockStarted,
)
from predictor.api.chat.sealed import seal
from predictor.api.http.events import sse
from predictor.chat.partial_json import complete_object
from predictor.engine.request import FinishReason

Json = dict[str, Any]

UNSIGNED = "unsigned"
"""Clients want a signature on a thought. Here it says nothing, since any thought is taken back."""

PING = sse({"type": "ping"}, "ping")


@dataclass(frozen=True, slots=True)
class MessageForm:
    """How one answer is written.

    Attributes:
        model: that answers.
        prompt_tokens: tokens of its prompt.
        hides_thoughts: whether thoughts come without their text, which their signatures hold then.
        id: of the message.
    """

    model: str
    prompt_tokens: int
    hides_thoughts: bool
    id: str = field(default_factory=lambda: f"msg_{uuid.uuid4().hex}")

    def whole(self, answer: BlockAnswer, end: AnswerEnd) -> Json:
        """The message that isn't streamed."""
        content = [self._content(block) for block in answer.blocks]
        return self._message(content, _stop(end), self._usage(end.cached_tokens, end.completion_tokens))

    async def events(self, answer: BlockAnswer) -> AsyncGenerator[bytes, None]:
        """All events; the first two come before anything is computed.

        Raises:
            NotReady: the server was shut down.
            EngineFailure: llama.cpp failed.
        """
        stop = {"stop_reason": None, "stop_sequence": None}
        yield _event("message_start", message=self._message([], stop, self._usage(0, 0)))
        yield PING
        async for step in answer.steps():
            match step:
                case BlockStarted(block):
                    yield _event("content_block_start", index=block.index, content_block=_started(block))
                case BlockPart(block, text):
                    if block.kind is not BlockKind.THOUGHT or not self.hides_thoughts:
                        yield _delta(block, **_part(block.kind, text))
                case BlockEnded(block):
                    if block.kind is BlockKind.THOUGHT:
                        yield _delta(block, type="signature_delta", signature=self._signature(block))
                    yield _event("content_block_stop", index=block.index)
        end = answer.end
        assert end is not None
        usage = self._usage(end.cached_tokens, end.completion_tokens)
        yield _event("message_delta", delta=_stop(end), usage=usage)
        yield _event("message_stop")

    def _message(self, content: list[Json], stop: Mapping[str, Any], usage: Json) -> Json:
        return {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": content,
            **stop,
            "usage": usage,
        }

    def _usage(self, cached: int, generated: int) -> Json:
        """Anthropic counts prompt tokens from the cache apart from the others."""
        return {
            "input_tokens": self.prompt_tokens - cached,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": cached,
            "output_tokens": generated,
        }

    def _content(self, block: Block) -> Json:
        match block.kind:
            case BlockKind.THOUGHT:
                thought = "" if self.hides_thoughts else block.text
                return {"type": "thinking", "thinking": thought, "signature": self._signature(block)}
            case BlockKind.TEXT:
                return {"type": "text", "text": block.text}
            case BlockKind.CALL:
                return {**_started(block), "input": _arguments(block.text)}

    def _signature(self, block: Block) -> str:
        return seal(block.text) if self.hides_thoughts else UNSIGNED


def _started(block: Block) -> Json:
    match block.kind:
        case BlockKind.THOUGHT:
            return {"type": "thinking", "thinking": "", "signature": ""}
        case BlockKind.TEXT:
            return {"type": "text", "text": ""}
        case BlockKind.CALL:
            return {"type": "tool_use", "id": f"toolu_{block.id}", "name": block.name, "input": {}}


def _part(kind: BlockKind, text: str) -> Json:
    match kind:
        case BlockKind.THOUGHT:
            return {"type": "thinking_delta", "thinking": text}
        case BlockKind.TEXT:
            return {"type": "text_delta", "text": text}
        case BlockKind.CALL:
            return {"type": "input_json_delta", "partial_json": text}


def _arguments(text: str) -> Json:
    """A call's arguments, as far as they can be told where the answer was cut off."""
    try:
        arguments = json.loads(text)
    except ValueError:
        arguments = complete_object(text)
    return arguments if isinstance(arguments, dict) else {}


def _stop(end: AnswerEnd) -> Json:
    if end.reason is not FinishReason.STOP:
        reason = "max_tokens"
    elif end.stop_string is not None:
        reason = "stop_sequence"
    else:
        reason = "tool_use" if end.has_calls else "end_turn"
    return {"stop_reason": reason, "stop_sequence": end.stop_string}


def _delta(block: Block, **delta: Any) -> bytes:
    return _event("content_block_delta", index=block.index, delta=delta)


def _event(name: str, **fields: Any) -> bytes:
    return sse({"type": name, **fields}, name)
