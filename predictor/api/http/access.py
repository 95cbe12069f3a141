"""API keys over HTTP, and the routes that need none."""

from __future__ import annotations

import re

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from predictor.access.gate import Gate
from predictor.api.http.errors import error_response
from predictor.errors import RateLimited, Unauthenticated

# What probes and Prometheus ask for; none of it tells what anybody sent.
_OPEN = re.compile(r"/|/metrics|(/v1)?/health|/v2/health/(live|ready)|/v2/models/[^/]+/ready")
# The chat page is a few files that anybody may have; what it asks for needs the key.
_PAGE = re.compile(r"/|/ui/[\w./-]+")
_READING = ("GET", "HEAD")
_OPEN_PORT = "kserve_llamacpp.open_port"


def is_open(scope: Scope) -> bool:
    """Whether a request is for health or metrics."""
    return scope["method"] in _READING and _OPEN.fullmatch(scope["path"]) is not None


def is_page(scope: Scope) -> bool:
    """Whether a request is for the chat page, or for kserve's answer in its place."""
    return scope["method"] in _READING and _PAGE.fullmatch(scope["path"]) is not None


class RequireKey:
    """ASGI middleware that lets requests in through the gate and counts each until its answer is sent.

    Args:
        app: the application.
        gate: checks the key.
        open_routes: whether health and metrics need no key.
    """

    def __init__(self, app: ASGIApp, gate: Gate, *, open_routes: bool) -> None:
        self.app = app
        self.gate = gate
        self.open_routes = open_routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the app; see the class."""
        if scope["type"] != "http" or self._is_free(scope):
            await self.app(scope, receive, send)
            return
        try:
            headers = Headers(scope=scope)
            with self.gate.enter(headers.get("authorization"), headers.get("x-api-key")):
                await self.app(scope, receive, send)
        except (Unauthenticated, RateLimited) as error:
            await error_response(error, scope)(scope, receive, send)

    def _is_free(self, scope: Scope) -> bool:
        return _OPEN_PORT in scope or is_page(scope) or (self.open_routes and is_open(scope))


class OpenRoutes:
    """The application of a port of its own, which needs no key: health and metrics, nothing else.

    Args:
        app: the whole application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the app; see the class."""
        if is_open(scope):
            await self.app({**scope, _OPEN_PORT: True}, receive, send)
            return
        answer = JSONResponse({"error": "this port serves health and metrics only"}, 404)
        await answer(scope, receive, send)
