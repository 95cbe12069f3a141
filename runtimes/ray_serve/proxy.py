"""What Ray Serve's HTTP proxy does for us: it says what happened when the gateway dies.

Ray itself answers with an empty 500 then, and its streams just stop.
"""

from __future__ import annotations

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from predictor.api.http.middleware import RequestId
from predictor.errors import Unavailable
from runtimes.ray_serve.sent_answer import SentAnswer

ENVIRONMENT = {
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "runtimes.ray_serve.proxy:middlewares",
    # A proxy that died is replaced when it has missed three checks.
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "2",
}
"""For all processes of a cluster."""


def middlewares() -> list[Middleware]:
    """For Ray Serve, the innermost first."""
    return [Middleware(UnfinishedAnswer), Middleware(RequestId)]


class UnfinishedAnswer:
    """Ends answers that Ray's proxy has begun to forward, or not even that, and given up.

    Args:
        app: the proxy.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the proxy; see the class."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sent = SentAnswer(send)
        await self._app(scope, receive, sent)
        if not sent.is_complete:
            error = Unavailable("the gateway that held this request has ended; send the request again")
            await sent.end_with(error, scope, receive)
