"""How answers end that Ray's gateway or proxy can't finish: in the form of each protocol."""

from __future__ import annotations

import json
from typing import Any

import pytest

from predictor.errors import Unavailable
from runtimes.ray_serve.sent_answer import SentAnswer

ERROR = Unavailable("gone")


async def ended(path: str, *events: bytes, begun: bool = True) -> list[Any]:
    """The messages of an answer that had these events when it was cut short."""
    messages: list[Any] = []

    async def send(message: Any) -> None:
        messages.append(message)

    async def receive() -> Any:
        raise AssertionError("nothing is read")

    sent = SentAnswer(send)
    if begun:
        headers = [(b"content-type", b"text/event-stream")]
        await sent({"type": "http.response.start", "status": 200, "headers": headers})
    for event in events:
        await sent({"type": "http.response.body", "body": event, "more_body": True})
    scope = {"type": "http", "path": path, "headers": [(b"x-request-id", b"7")]}
    await sent.end_with(ERROR, scope, receive)
    return messages


@pytest.mark.parametrize(
    ("path", "name", "payload"),
    [
        ("/v1/chat/completions", None, {"message": "gone"}),
        ("/v2/models/m/generate_stream", None, "gone"),
        ("/v1/messages", "error", {"type": "overloaded_error", "message": "gone"}),
    ],
)
async def test_a_stream_ends_with_an_error(path: str, name: str | None, payload: Any) -> None:
    *_, last = await ended(path, b'data: {"a": 1}\n\n')
    *head, data = last["body"].decode().strip().split("\n")
    assert head == ([] if name is None else [f"event: {name}"])
    error = json.loads(data.removeprefix("data: "))["error"]
    assert error == payload if isinstance(payload, str) else payload.items() <= error.items()
    assert not last["more_body"]


async def test_a_response_goes_on_counting_its_events() -> None:
    events = [
        b'event: a\ndata: {"x": "data:"}\n\nevent: b\ndata: {}\n\n',
        b": ping\n\n",
        b"event: c\ndata: {}\n\n",
    ]
    *_, last = await ended("/v1/responses", *events)
    event = json.loads(last["body"].decode().partition("data: ")[2])
    assert (event["type"], event["sequence_number"], event["message"]) == ("error", 3, "gone")


async def test_an_answer_that_has_not_begun_is_refused_in_the_protocols_form() -> None:
    start, body = await ended("/v1/messages", begun=False)
    assert start["status"] == 503
    assert json.loads(body["body"])["request_id"] == "7"
