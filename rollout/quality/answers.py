"""Asking a revision for answers, and the stable one what it thinks of the canary's.

The stable model's log-probability of a text is had from any OpenAI server that takes a GBNF `grammar` beside
`logprobs`: the grammar is the text itself, so that the answer can be nothing else, and the log-probabilities
are the model's own, before the grammar. Where several token sequences spell the text, the one that the model
prefers token by token counts.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import httpx

from rollout.pods import Pods, PodUnreachable
from rollout.quality.golden import GoldenPrompt
from rollout.verdict import Revision

SECONDS = 300.0
_TRIES = 4
_BUSY = (429, 502, 503, 504)


class NoAnswer(Exception):
    """A revision didn't answer, or not as an OpenAI server does.

    Args:
        message: what came instead.
        is_busy: whether asking again soon makes sense.
    """

    def __init__(self, message: str, *, is_busy: bool = False) -> None:
        super().__init__(message)
        self.is_busy = is_busy


class Endpoint(Protocol):
    """Reaches one revision."""

    def post(self, path: str, body: Mapping[str, Any]) -> str:
        """The body of the answer to a request with JSON.

        Raises:
            NoAnswer: there is no success.
        """


@dataclass(frozen=True, slots=True)
class UrlEndpoint:
    """A revision that has an address of its own."""

    url: str

    def post(self, path: str, body: Mapping[str, Any]) -> str:
        try:
            answer = httpx.post(f"{self.url.rstrip('/')}/{path}", json=body, timeout=SECONDS)
        except httpx.HTTPError as error:
            raise NoAnswer(f"{type(error).__name__}: {error}", is_busy=True) from error
        if answer.status_code != 200:
            text = f"status {answer.status_code}: {answer.text[:200]}"
            raise NoAnswer(text, is_busy=answer.status_code in _BUSY)
        return answer.text


@dataclass(frozen=True, slots=True)
class PodEndpoint:
    """A revision whose pods are reached through the API server; the first ready one answers."""

    pods: Pods
    revision: Revision

    def post(self, path: str, body: Mapping[str, Any]) -> str:
        try:
            ready = self.pods.ready(self.revision)
            if not ready:
                raise NoAnswer(f"{self.revision.name} has no ready pod", is_busy=True)
            return self.pods.post(self.revision.namespace, ready[0], path, body, SECONDS)
        except PodUnreachable as error:
            raise NoAnswer(str(error), is_busy=error.status in (None, *_BUSY)) from error


EndpointOf = Callable[[Revision], Endpoint]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a revision said.

    Attributes:
        text: empty where there was no answer.
        seconds: until the whole answer was there.
        mean_logprob: the model's own mean log-probability per token, in nats.
        error: why there is no answer.
    """

    text: str = ""
    seconds: float = 0.0
    mean_logprob: float | None = None
    error: str | None = None


def ask(endpoint: Endpoint, model: str, prompt: GoldenPrompt) -> Answer:
    """The greedy answer to a prompt; a busy revision is asked a few times."""
    body = {
        "model": model,
        "messages": list(prompt.messages),
        "max_tokens": prompt.max_tokens,
        "temperature": 0,
        "logprobs": True,
    }
    started = time.monotonic()
    try:
        text, logprobs = _completion(endpoint, body)
    except NoAnswer as error:
        return Answer(error=str(error))
    if not text.strip():
        return Answer(text, error="the answer is empty")
    return Answer(text, time.monotonic() - started, _mean(logprobs))


def mean_logprob(endpoint: Endpoint, model: str, prompt: GoldenPrompt, text: str) -> float | None:
    """The mean log-probability per token, in nats, that a model gives to `text` as the answer to a prompt.

    None where the revision gives none.

    Raises:
        NoAnswer: it can't be asked.
    """
    body = {
        "model": model,
        "messages": list(prompt.messages),
        "max_tokens": len(text.encode()) + 8,
        "temperature": 0,
        "logprobs": True,
        "grammar": f"root ::= {gbnf_literal(text)}",
    }
    answer, logprobs = _completion(endpoint, body)
    if answer != text:
        raise NoAnswer("the grammar was not kept")
    return _mean(logprobs)


def gbnf_literal(text: str) -> str:
    """A text as a literal of llama.cpp's grammars."""
    escapes = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    return '"' + "".join(escapes.get(c, c if c.isprintable() else f"\\U{ord(c):08X}") for c in text) + '"'


def _completion(endpoint: Endpoint, body: Mapping[str, Any]) -> tuple[str, list[float]]:
    for attempt in range(_TRIES):
        try:
            return _parse(endpoint.post("v1/chat/completions", body))
        except NoAnswer as error:
            if not error.is_busy or attempt == _TRIES - 1:
                raise
            time.sleep(0.5 * 2**attempt)
    raise AssertionError("unreachable")


def _parse(answer: str) -> tuple[str, list[float]]:
    try:
        choice = json.loads(answer)["choices"][0]
        text = choice["message"]["content"] or ""
        entries = (choice.get("logprobs") or {}).get("content") or []
        return text, [float(entry["logprob"]) for entry in entries]
    except (ValueError, LookupError, TypeError) as error:
        raise NoAnswer(f"no chat completion: {answer[:200]}") from error


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
