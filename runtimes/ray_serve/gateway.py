"""The ingress: takes HTTP and gRPC from Ray Serve's proxy and hands each request to a replica of a model.

It stands between the proxy and the replicas for what the proxy can't do: choose a replica by what is in the
body, divide requests between two models, and say what happened when a replica dies.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import grpc
from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from predictor.api.http.errors import grpc_error
from predictor.api.http.middleware import install_middleware
from predictor.errors import (
    EngineFailure,
    NotReady,
    PredictorError,
    QueueFull,
    Unavailable,
)
from runtimes.ray_serve.asgi_call import SCOPE_KEYS
from runtimes.ray_serve.grpc_service import GrpcAnswer
from runtimes.ray_serve.prefix import prefix_keys
from runtimes.ray_serve.sent_answer import SentAnswer
from runtimes.ray_serve.traffic import TrafficSplit

logger = logging.getLogger(__name__)

FAILURES = (PredictorError, RayError, BackPressureError, DeploymentUnavailableError)
"""What a call to a replica can end with, other than an answer."""


def _grpc_method(name: str) -> Callable[..., Awaitable[GrpcAnswer]]:
    async def method(self: Gateway, request: bytes, grpc_context: Any) -> GrpcAnswer:
        return await self.call(name, request, grpc_context)

    return method


@serve.ingress()
class Gateway:
    """Forwards requests.

    Args:
        engines: handle of the stable model's deployment, and of the canary's where there is one.
        max_body_bytes: largest request body accepted.
        hold_seconds: how long a request may wait for a replica that takes it.
    """

    def __init__(
        self, engines: Mapping[str, DeploymentHandle[Any]], max_body_bytes: int, hold_seconds: float
    ) -> None:
        self._engines = dict(engines)
        self._max_body_bytes = max_body_bytes
        self._hold_seconds = hold_seconds
        self._split = TrafficSplit(0)

    def reconfigure(self, config: Mapping[str, Any]) -> None:
        """Take over a new share of the canary: `{"canary_percent": 0 to 100}`."""
        self._split = TrafficSplit(config["canary_percent"] if "canary" in self._engines else 0)

    def __serve_build_asgi_app__(self) -> Starlette:
        app = Starlette()
        app.router.default = self._forward
        install_middleware(app, max_body_bytes=self._max_body_bytes)
        return app

    async def _forward(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await Request(scope, receive).body()
        sent = SentAnswer(send)
        try:
            async for messages in self._answer(scope, body):
                for message in messages:
                    await sent(message)
        except FAILURES as error:
            if sent.is_complete:
                return
            known = explained(error)
            logger.warning("%s %s: %s", scope["method"], scope["path"], known)
            await sent.end_with(known, scope, receive)

    async def _answer(self, scope: Scope, body: bytes) -> AsyncIterator[list[Message]]:
        portable = {key: scope[key] for key in SCOPE_KEYS if key in scope}
        handle = self._engine_for(asks_a_model(scope)).options(stream=True)
        async for messages in self._taken(handle.respond.remote(portable, body, prefix=prefix_keys(body))):
            yield messages

    async def _taken(self, stream: Any) -> AsyncGenerator[Any, None]:
        """What the replica yields after the first item, which says that it has taken the request.

        Raises:
            NotReady: none has. Ray would hold it for as long as new replicas fail to start.
        """
        done = False
        first = asyncio.ensure_future(anext(stream))
        try:
            if not (await asyncio.wait((first,), timeout=self._hold_seconds))[0]:
                raise NotReady(
                    f"no replica took the request within {self._hold_seconds:g} s; `serve status` says why",
                    retry_after=30,
                )
            await first
            async for item in stream:
                yield item
            done = True
        finally:
            if not done:
                first.add_done_callback(_retrieve)
                first.cancel()
                stream.cancel()

    def _engine_for(self, is_request: bool) -> DeploymentHandle[Any]:
        """Where a call goes; what asks no model, such as a probe, isn't divided."""
        canary = is_request and self._split.next_is_canary()
        return self._engines["canary" if canary else "stable"]

    async def call(self, method: str, request: bytes, context: Any) -> GrpcAnswer:
        """Forward one gRPC call; which replica gets it is decided by load alone."""
        handle = self._engine_for(method == "ModelInfer").options(stream=True)
        call = self._taken(handle.infer.remote(method, request, context.invocation_metadata()))
        try:
            answer: GrpcAnswer = await anext(call)
        except FAILURES as error:
            known = grpc_error(explained(error))
            answer = GrpcAnswer(b"", known.status_code.name, known.details)
        finally:
            await call.aclose()
        if answer.code != "OK":
            context.set_code(grpc.StatusCode[answer.code])
            context.set_details(answer.details)
        return answer

    # Ray Serve calls the method that is named as the gRPC method.
    ServerLive = _grpc_method("ServerLive")
    ServerReady = _grpc_method("ServerReady")
    ServerMetadata = _grpc_method("ServerMetadata")
    ModelReady = _grpc_method("ModelReady")
    ModelMetadata = _grpc_method("ModelMetadata")
    ModelInfer = _grpc_method("ModelInfer")
    RepositoryModelLoad = _grpc_method("RepositoryModelLoad")
    RepositoryModelUnload = _grpc_method("RepositoryModelUnload")


def _retrieve(ended: asyncio.Future[Any]) -> None:
    """How a call ended that its client has left is nobody's business; asyncio would log a traceback."""
    if not ended.cancelled():
        ended.exception()


def explained(error: Exception) -> PredictorError:
    """A failure of Ray's as the client should see it."""
    if isinstance(error, PredictorError):
        return error
    if isinstance(error, BackPressureError):
        return QueueFull("all replicas are busy and the queue is full; try again later")
    if isinstance(error, DeploymentUnavailableError):
        return NotReady("no replica of the model could be started; its log says why", retry_after=30)
    if isinstance(error, RayTaskError):
        # The replica lives; the call itself went wrong, and would again.
        logger.error("a call failed in its replica: %s", error)
        return EngineFailure("the server failed; its log says why")
    return Unavailable("the replica that ran this request has ended; send the request again")


def asks_a_model(scope: Scope) -> bool:
    """Whether a call is one of those that are divided: no probe, no metrics, no list of models."""
    return bool(scope.get("method") == "POST")
