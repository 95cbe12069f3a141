"""A conversation with a model: what was said, and how the next answer is asked for."""

from __future__ import annotations

import re
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import orjson

from predictor.client.endpoint import CONNECT_SECONDS, ClientError, Endpoint, refusal

# A terminal obeys control characters and changes of direction, and a model may write them.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def harmless(text: str) -> str:
    """The text without what a terminal would obey."""
    return _CONTROL.sub("", text)


@dataclass(frozen=True, slots=True)
class Piece:
    """The next part of an answer, made safe for a terminal.

    Attributes:
        text: not empty.
        is_thought: whether it belongs to the model's thoughts and not to its answer.
    """

    text: str
    is_thought: bool = False


@dataclass(slots=True)
class Figures:
    """Of one answer; times in seconds since the request was sent."""

    first: float | None = None
    last: float = 0.0
    tokens: int = 0
    finish_reason: str | None = None

    def __str__(self) -> str:
        if self.first is None:
            return "no text"
        parts = [f"{self.tokens} tokens", f"first after {self.first:.2f} s"]
        if self.tokens > 1 and self.last > self.first:
            parts.append(f"{(self.tokens - 1) / (self.last - self.first):.1f} tokens/s")
        if self.finish_reason == "length":
            parts.append("cut at max_tokens or the end of the context")
        return ", ".join(parts)


@dataclass(slots=True)
class Conversation:
    """What was said, and with whom.

    Attributes:
        endpoint: the server.
        model: its name there.
        fields: further fields of each request.
        system: the system prompt, None for the model's own.
        messages: the user's and the model's, in order.
    """

    endpoint: Endpoint
    model: str
    fields: dict[str, Any]
    system: str | None = None
    messages: list[dict[str, str]] = field(default_factory=list)

    @staticmethod
    def at(
        url: str,
        api_key: str | None,
        model: str | None,
        system: str | None,
        temperature: float | None,
        max_tokens: int,
    ) -> Conversation:
        """A new conversation with a server that answers.

        Raises:
            ClientError: the server can't be used.
        """
        endpoint = Endpoint.at(url, api_key)
        fields: dict[str, Any] = {"max_tokens": max_tokens}
        if temperature is not None:
            fields["temperature"] = temperature
        return Conversation(endpoint, endpoint.model(model), fields, system)

    def ask(self, text: str, figures: Figures) -> Generator[Piece]:
        """Send a message and yield the answer's pieces.

        The message and what came of the answer join the conversation when the iterator ends or is closed,
        unless nothing came.

        Raises:
            ClientError: the server refused, failed or went away.
        """
        message = {"role": "user", "content": text}
        system = [{"role": "system", "content": self.system}] if self.system else []
        body = {
            "model": self.model,
            "messages": [*system, *self.messages, message],
            "stream": True,
            "stream_options": {"include_usage": True},
            **self.fields,
        }
        answer = ""
        try:
            for kind, piece in _stream(self.endpoint, body, figures):
                answer += piece if kind == _CONTENT else ""
                if shown := harmless(piece):
                    yield Piece(shown, kind != _CONTENT)
        finally:
            if answer:
                self.messages += [message, {"role": "assistant", "content": answer}]


_CONTENT = "content"
# Thoughts have a second name in the same event, which is passed over.
_KINDS = ("reasoning_content", "reasoning", _CONTENT)


def _stream(endpoint: Endpoint, body: dict[str, Any], figures: Figures) -> Generator[tuple[str, str]]:
    started = time.perf_counter()
    timeout = httpx.Timeout(CONNECT_SECONDS, read=None)
    url, headers = f"{endpoint.url}/chat/completions", dict(endpoint.headers)
    try:
        with httpx.stream("POST", url, json=body, headers=headers, timeout=timeout) as response:
            if response.status_code != 200:
                raise ClientError(refusal(response.status_code, response.read()))
            for event in _events(response.iter_lines()):
                choice: dict[str, Any] = next(iter(event.get("choices", ())), {})
                figures.finish_reason = choice.get("finish_reason") or figures.finish_reason
                delta = choice.get("delta") or {}
                if kind := next((kind for kind in _KINDS if delta.get(kind)), None):
                    figures.last = time.perf_counter() - started
                    figures.first = figures.last if figures.first is None else figures.first
                    figures.tokens += 1
                    yield kind, delta[kind]
                if usage := event.get("usage"):
                    figures.tokens = usage["completion_tokens"]
    except httpx.HTTPError as error:
        raise ClientError(f"the connection to {endpoint.url} broke: {error}") from None


def _events(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        if not line.startswith("data:"):
            continue
        if (data := line[5:].strip()) == "[DONE]":
            return
        event: dict[str, Any] = orjson.loads(data)
        if "error" in event:
            error = event["error"]
            raise ClientError(str(error.get("message", error) if isinstance(error, dict) else error))
        yield event
    raise ClientError("the connection ended before the answer did")
