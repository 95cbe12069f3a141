"""An answer on its way to the client, which may have to end with an error."""

from __future__ import annotations

import re

from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from predictor.api.http.error_forms import error_form
from predictor.api.http.errors import error_response, problem_of
from predictor.errors import PredictorError

_EVENT = re.compile(rb"^data:", re.M)


class SentAnswer:
    """Passes an answer on and knows how far it has come.

    Args:
        send: ASGI's.

    Attributes:
        is_complete: whether its end was sent.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._streams_events: bool | None = None  # None: nothing was sent
        self._events = 0
        self.is_complete = False

    async def __call__(self, message: Message) -> None:
        """Pass on a message of the answer."""
        if message["type"] == "http.response.start":
            headers = dict(message["headers"])
            self._streams_events = headers.get(b"content-type", b"").startswith(b"text/event-stream")
        elif not message.get("more_body", False):
            self.is_complete = True
        elif self._streams_events:
            self._events += len(_EVENT.findall(message.get("body", b"")))
        await self._send(message)

    async def end_with(self, error: PredictorError, scope: Scope, receive: Receive) -> None:
        """Say in the route's own form what cut the answer short.

        Raises:
            PredictorError: the same, where the answer has begun and has no form for an error.
        """
        if self._streams_events is None:
            await error_response(error, scope)(scope, receive, self._send)
            return
        if not self._streams_events:
            raise error  # The status is out; the proxy closes the connection.
        request_id = Headers(scope=scope).get("x-request-id", "")
        event = error_form(scope["path"]).last_event(problem_of(error), request_id, self._events)
        await self._send({"type": "http.response.body", "body": event, "more_body": False})
