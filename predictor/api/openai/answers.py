"""OpenAI's answers: whole ones as dictionaries, chunks of a stream as ready-made bytes.

A stream costs one chunk per token, so what is the same in all its chunks is serialised once.
"""

from __future__ import annotations

import codecs
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from predictor import __version__
from predictor.engine.request import Delta, PromptProgress, TokenLogprob
from predictor.generation.chat import ChatAnswer
from predictor.generation.text import Completion

SYSTEM_FINGERPRINT = f"kserve-llamacpp-{__version__}"
_LOWEST_LOGPROB = -9999.0  # OpenAI's stand-in for minus infinity, which JSON lacks.


@dataclass(slots=True)
class Usage:
    """Token counts of one call."""

    prompt_tokens: int
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int | None = None

    def add_reasoning(self, tokens: int | None) -> None:
        """Count the tokens of an answer's thoughts, None where its model never thinks."""
        if tokens is not None:
            self.reasoning_tokens = (self.reasoning_tokens or 0) + tokens

    def as_json(self) -> dict[str, Any]:
        """OpenAI's `usage` object."""
        usage: dict[str, Any] = {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }
        if self.reasoning_tokens is not None:
            usage["completion_tokens_details"] = {"reasoning_tokens": self.reasoning_tokens}
        return usage

    @classmethod
    def of(cls, completions: Sequence[Completion | ChatAnswer], per_prompt: int) -> Usage:
        """Usage of a batch of `per_prompt` completions for each prompt; a prompt counts once."""
        firsts = completions[::per_prompt]
        return cls(
            sum(first.prompt_tokens for first in firsts),
            sum(completion.completion_tokens for completion in completions),
            sum(first.cached_tokens for first in firsts),
        )


@dataclass(frozen=True, slots=True)
class Envelope:
    """The fields around the choices of an answer.

    Attributes:
        id: shared by all chunks of a stream.
        object: OpenAI's type name.
        model: the model's name.
        created: seconds since the epoch.
    """

    id: str
    object: str
    model: str
    created: int = field(default_factory=lambda: int(time.time()))

    @classmethod
    def new(cls, prefix: str, kind: str, model: str) -> Envelope:
        """An envelope with a fresh id."""
        return cls(f"{prefix}-{uuid.uuid4().hex}", kind, model)

    def as_json(self) -> dict[str, Any]:
        """The fields as a dictionary."""
        return {
            "id": self.id,
            "object": self.object,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": SYSTEM_FINGERPRINT,
        }

    def whole(self, choices: list[dict[str, Any]], usage: Usage) -> dict[str, Any]:
        """An answer that is not streamed."""
        return {**self.as_json(), "choices": choices, "usage": usage.as_json()}


class ChunkWriter:
    """Serialises the chunks of one stream as server-sent events.

    Args:
        envelope: what all chunks share.
        include_usage: whether chunks carry `usage`, null in all but the last.
    """

    def __init__(self, envelope: Envelope, *, include_usage: bool) -> None:
        head = orjson.dumps(envelope.as_json())[:-1]
        self._head = b"data: " + head + b',"choices":['
        self._tail = b'],"usage":null}\n\n' if include_usage else b"]}\n\n"

    def chat(self, index: int, text: str, logprobs: list[dict[str, Any]] | None) -> bytes:
        """A chunk with the next text of a message."""
        return b'%b{"index":%d,"delta":{"content":%b},"logprobs":%b,"finish_reason":null}%b' % (
            self._head,
            index,
            orjson.dumps(text),
            b"null" if logprobs is None else orjson.dumps({"content": logprobs, "refusal": None}),
            self._tail,
        )

    def thought(self, index: int, text: str) -> bytes:
        """A chunk with the next text of a thought, under both names that clients know."""
        written = orjson.dumps(text)
        delta = b'{"reasoning_content":%b,"reasoning":%b}' % (written, written)
        return self._chat_delta(index, delta, b"null")

    def chat_start(self, index: int) -> bytes:
        """A message's first chunk, which names its role."""
        return self._chat_delta(index, b'{"role":"assistant","content":"","refusal":null}', b"null")

    def call_start(self, index: int, call: int, call_id: str, name: str) -> bytes:
        """The first chunk of a message's tool call."""
        entry = {
            "index": call,
            "id": call_id,
            "type": "function",
            "function": {"name": name, "arguments": ""},
        }
        return self._chat_delta(index, orjson.dumps({"tool_calls": [entry]}), b"null")

    def call_arguments(self, index: int, call: int, text: str) -> bytes:
        """A chunk with the next part of a tool call's arguments."""
        entry = {"index": call, "function": {"arguments": text}}
        return self._chat_delta(index, orjson.dumps({"tool_calls": [entry]}), b"null")

    def chat_end(self, index: int, finish_reason: str) -> bytes:
        """A message's last chunk."""
        return self._chat_delta(index, b"{}", orjson.dumps(finish_reason))

    def text(
        self, index: int, text: str, logprobs: dict[str, Any] | None, finish_reason: str | None
    ) -> bytes:
        """A chunk of a completion."""
        return b'%b{"index":%d,"text":%b,"logprobs":%b,"finish_reason":%b}%b' % (
            self._head,
            index,
            orjson.dumps(text),
            b"null" if logprobs is None else orjson.dumps(logprobs),
            b"null" if finish_reason is None else orjson.dumps(finish_reason),
            self._tail,
        )

    def progress(self, index: int, nothing: bytes, progress: PromptProgress) -> bytes:
        """A chunk without text that tells how far a prompt has been read, as llama-server does.

        Args:
            index: of the choice.
            nothing: the member of a choice that would hold its text.
            progress: of its prompt.
        """
        fields = {
            "total": progress.total,
            "cache": progress.cached,
            "processed": progress.processed,
            "time_ms": round(progress.seconds * 1000),
        }
        choice = b'{"index":%d,%b,"logprobs":null,"finish_reason":null}' % (index, nothing)
        tail = self._tail.removesuffix(b"}\n\n")
        return b'%b%b%b,"prompt_progress":%b}\n\n' % (self._head, choice, tail, orjson.dumps(fields))

    def usage(self, usage: Usage) -> bytes:
        """The chunk after all others, with no choices."""
        return self._head + b'],"usage":' + orjson.dumps(usage.as_json()) + b"}\n\n"

    def _chat_delta(self, index: int, delta: bytes, finish_reason: bytes) -> bytes:
        return b'%b{"index":%d,"delta":%b,"logprobs":null,"finish_reason":%b}%b' % (
            self._head,
            index,
            delta,
            finish_reason,
            self._tail,
        )


def chat_logprobs(entries: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
    """`logprobs.content` of a chat completion."""
    return [
        {**_chat_logprob(entry), "top_logprobs": [_chat_logprob(top) for top in entry.top]}
        for entry in entries
    ]


def _chat_logprob(entry: TokenLogprob) -> dict[str, Any]:
    return {"token": _text(entry.piece), "logprob": _finite(entry.logprob), "bytes": list(entry.piece)}


class TextLogprobs:
    """`logprobs` of one completion, over one or several chunks.

    Offsets count characters from the start of the completion's text. A character that several tokens make up
    has the offset of its start in all of them.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._offset = 0

    def of(self, entries: Sequence[TokenLogprob], first_piece: bytes | None = None) -> dict[str, Any]:
        """OpenAI's four parallel lists for the next tokens.

        Args:
            entries: of the tokens.
            first_piece: bytes of a token before them that has no log-probability; None for no such token.
        """
        first = [] if first_piece is None else [first_piece]
        none = [None] * len(first)
        offsets: list[int] = []
        for piece in (*first, *(entry.piece for entry in entries)):
            offsets.append(self._offset)
            self._offset += len(self._decoder.decode(piece))
        return {
            "tokens": [_text(piece) for piece in (*first, *(entry.piece for entry in entries))],
            "token_logprobs": [*none, *(_finite(entry.logprob) for entry in entries)],
            "top_logprobs": [*none, *map(_top_logprobs, entries)],
            "text_offset": offsets,
        }


def wants_chunk(delta: Delta) -> bool:
    """Whether a delta has anything to show before its end."""
    return bool(delta.text or delta.logprobs or delta.prompt_logprobs)


def _top_logprobs(entry: TokenLogprob) -> dict[str, float]:
    """A value for each text, the likeliest token's where several have the same one."""
    best: dict[str, float] = {}
    for top in (*entry.top, entry):
        text = _text(top.piece)
        best[text] = max(_finite(top.logprob), best.get(text, _LOWEST_LOGPROB))
    return best


def _text(piece: bytes) -> str:
    return piece.decode("utf-8", errors="replace")


def _finite(logprob: float) -> float:
    return max(logprob, _LOWEST_LOGPROB)
