"""A response as JSON: the object around an answer, and its items.

Source: https://platform.openai.com/docs/api-reference/responses/object
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from predictor.api.chat.blocks import AnswerEnd, Block, BlockKind
from predictor.api.chat.sealed import seal
from predictor.api.http.error_forms import Problem
from predictor.api.openai.answers import chat_logprobs
from predictor.api.openai.responses.tools import INPUT, ResponseTools
from predictor.api.openai.responses.types import ResponsesRequest
from predictor.chat.partial_json import complete_object
from predictor.engine.request import FinishReason, SamplingParams

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ResponseEnvelope:
    """The fields around the output of one response.

    Attributes:
        body: the request.
        model: that answers it.
        params: that it is sampled with.
        tools: that it may call.
        prompt_tokens: tokens of its prompt.
        id, created: of the response; seconds since the epoch.
    """

    body: ResponsesRequest
    model: str
    params: SamplingParams
    tools: ResponseTools
    prompt_tokens: int
    id: str = field(default_factory=lambda: f"resp_{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def started(self) -> Json:
        """The response before there is any output."""
        return self._object("in_progress")

    def ended(self, blocks: Sequence[Block], end: AnswerEnd) -> Json:
        """The response once its answer has ended, also where it was cut off."""
        is_whole = end.reason is FinishReason.STOP
        output = [self.item(block) for block in blocks] or [_message(Block(0, BlockKind.TEXT), [_text("")])]
        return self._object(
            "completed" if is_whole else "incomplete",
            output=output,
            completed_at=int(time.time()) if is_whole else None,
            incomplete_details=None if is_whole else {"reason": "max_output_tokens"},
            usage=self._usage(end),
        )

    def failed(self, blocks: Sequence[Block], problem: Problem) -> Json:
        """The response where something went wrong in its middle."""
        code = problem.code if problem.code == "rate_limit_exceeded" else "server_error"
        output = [self.item(block) for block in blocks]
        return self._object("failed", output=output, error={"code": code, "message": problem.message})

    def item(self, block: Block, *, is_open: bool = False) -> Json:
        """A block as an item of the output; one that has just begun is still empty."""
        status = "in_progress" if is_open else "incomplete" if block.is_cut else "completed"
        match block.kind:
            case BlockKind.THOUGHT:
                return self._thought(block, status, is_open=is_open)
            case BlockKind.TEXT:
                return _message(block, [] if is_open else [self.part(block)], status)
            case BlockKind.CALL:
                return self._call(block, status)

    def part(self, block: Block, *, is_open: bool = False) -> Json:
        """The only part of a thought's or a text's item."""
        text = "" if is_open else block.text
        if block.kind is BlockKind.THOUGHT:
            return {"type": "reasoning_text", "text": text}
        return _text(text, [] if is_open else chat_logprobs(block.logprobs))

    def _thought(self, block: Block, status: str, *, is_open: bool) -> Json:
        item: Json = {
            "id": item_id(block),
            "type": "reasoning",
            "summary": [],
            "content": [] if is_open else [self.part(block)],
            "status": status,
        }
        if self.body.wants_sealed_thoughts:
            item["encrypted_content"] = None if is_open else seal(block.text)
        return item

    def _call(self, block: Block, status: str) -> Json:
        name = self.tools.name(block.name)
        item: Json = {"id": item_id(block), "call_id": f"call_{block.id}", "name": name.name}
        if name.kind == "custom":
            item |= {"type": "custom_tool_call", "input": self.custom_input(block)}
        else:
            item |= {"type": "function_call", "arguments": block.text, "status": status}
        return item if name.namespace is None else {**item, "namespace": name.namespace}

    def is_custom(self, block: Block) -> bool:
        """Whether a block calls a tool that takes free text."""
        return block.kind is BlockKind.CALL and self.tools.name(block.name).kind == "custom"

    def custom_input(self, block: Block) -> str:
        """The text that a custom tool is called with, as far as it has come."""
        try:
            arguments = json.loads(block.text)
        except ValueError:
            arguments = complete_object(block.text)
        text = arguments.get(INPUT) if isinstance(arguments, dict) else None
        return text if isinstance(text, str) else ""

    def _usage(self, end: AnswerEnd) -> Json:
        return {
            "input_tokens": self.prompt_tokens,
            "input_tokens_details": {"cached_tokens": end.cached_tokens, "cache_write_tokens": 0},
            "output_tokens": end.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": end.reasoning_tokens or 0},
            "total_tokens": self.prompt_tokens + end.completion_tokens,
        }

    def _object(self, status: str, **fields: Any) -> Json:
        body = self.body
        response = {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "background": False,
            "completed_at": None,
            "error": None,
            "incomplete_details": None,
            "instructions": body.instructions,
            "max_output_tokens": self.params.max_tokens,
            "model": self.model,
            "output": [],
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": None,
            "reasoning": {"effort": body.effort, "summary": None},
            "store": False,
            "temperature": self.params.temperature,
            "text": {"format": _format(body)},
            "tool_choice": body.tool_choice or "auto",
            "tools": body.tools or [],
            "top_logprobs": self.params.top_logprobs or 0,
            "top_p": self.params.top_p,
            "truncation": "disabled",
            "usage": None,
            "user": body.user,
            "safety_identifier": body.safety_identifier,
            "prompt_cache_key": body.prompt_cache_key,
            "metadata": body.metadata or {},
        }
        return response | fields


_PREFIXES = {BlockKind.THOUGHT: "rs", BlockKind.TEXT: "msg", BlockKind.CALL: "fc"}


def item_id(block: Block) -> str:
    """The id of a block's item."""
    return f"{_PREFIXES[block.kind]}_{block.id}"


def _message(block: Block, content: list[Json], status: str = "completed") -> Json:
    return {
        "id": item_id(block),
        "type": "message",
        "status": status,
        "role": "assistant",
        "content": content,
    }


def _text(text: str, logprobs: Sequence[Json] = ()) -> Json:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": list(logprobs)}


def _format(body: ResponsesRequest) -> Any:
    given = body.text.format if body.text else None
    return given or {"type": "text"}
