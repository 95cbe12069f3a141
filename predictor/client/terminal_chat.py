"""A chat in the terminal: streamed answers, a few commands, and a mode for pipes."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import httpx
import orjson
from rich.console import Console
from rich.text import Text

from predictor.client.endpoint import CONNECT_SECONDS, ClientError, Endpoint, refusal

HELP = """/system TEXT  set the system prompt; without a text, show it
/reset        forget the conversation
/history      show the conversation
/help         show this
/exit         leave, as does Ctrl-D; Ctrl-C stops an answer"""

# A terminal obeys control characters and changes of direction, and a model may write them.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


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
            parts.append("cut at --max-tokens or the end of the context")
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

    def ask(self, text: str, figures: Figures) -> Generator[str]:
        """Send a message and yield the answer's pieces, made safe for a terminal.

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
            for piece in _stream(self.endpoint, body, figures):
                answer += piece
                yield _CONTROL.sub("", piece)
        finally:
            if answer:
                self.messages += [message, {"role": "assistant", "content": answer}]


def _stream(endpoint: Endpoint, body: dict[str, Any], figures: Figures) -> Generator[str]:
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
                if text := (choice.get("delta") or {}).get("content"):
                    figures.last = time.perf_counter() - started
                    figures.first = figures.last if figures.first is None else figures.first
                    figures.tokens += 1
                    yield text
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


def run(conversation: Conversation) -> int:
    """Talk until the user leaves, or answer what was piped in.

    Returns:
        The exit status.

    Raises:
        ClientError: what was piped in got no answer.
    """
    if sys.stdin.isatty():
        return _talk(conversation, Console(highlight=False))
    return _answer_pipe(conversation)


def _answer_pipe(conversation: Conversation) -> int:
    text = sys.stdin.read().strip()
    if not text:
        raise ClientError("standard input is empty: pipe a message in, or start in a terminal")
    with closing(conversation.ask(text, Figures())) as pieces:
        for piece in pieces:
            sys.stdout.write(piece)
            sys.stdout.flush()
    sys.stdout.write("\n")
    return 0


def _talk(conversation: Conversation, console: Console) -> int:
    import readline  # noqa: F401  input() gets line editing and a history of lines from it

    console.print(Text(f"{conversation.model} at {conversation.endpoint.url}; /help lists commands", "dim"))
    while True:
        try:
            line = input("> ").strip()
        except KeyboardInterrupt:
            console.print()
            continue
        except EOFError:
            console.print()
            return 0
        if line == "/exit":
            return 0
        if line.startswith("/"):
            _obey(line, conversation, console)
        elif line:
            _answer(line, conversation, console)


def _answer(line: str, conversation: Conversation, console: Console) -> None:
    figures = Figures()
    try:
        with closing(conversation.ask(line, figures)) as pieces:
            with console.status("waiting for the first token"):
                first = next(pieces, "")
            console.print(Text(first), end="", soft_wrap=True)
            for piece in pieces:
                console.print(Text(piece), end="", soft_wrap=True)
    except KeyboardInterrupt:
        console.print(Text("\nstopped", "yellow"))
    except ClientError as error:
        console.print(Text(f"\n{error.message}", "red"))
    else:
        console.print(Text(f"\n{figures}", "dim"))


def _obey(line: str, conversation: Conversation, console: Console) -> None:
    command, _, argument = line.partition(" ")
    match command:
        case "/system":
            conversation.system = argument.strip() or conversation.system
            console.print(Text(f"system prompt: {conversation.system or 'none'}", "dim"))
        case "/reset":
            conversation.messages.clear()
            console.print(Text("the conversation is forgotten", "dim"))
        case "/history":
            for message in conversation.messages:
                console.print(Text(message["role"], "bold"), Text(_CONTROL.sub("", message["content"])))
        case "/help":
            console.print(Text(HELP, "dim"))
        case _:
            console.print(Text(f"there is no command {command}; /help lists them", "red"))
