"""What every gRPC call passes through: an id, the API key, and our errors as status codes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from grpc import ServicerContext
from grpc_interceptor.server import AsyncServerInterceptor

from predictor.access.gate import Gate
from predictor.api.http.errors import grpc_error
from predictor.api.http.middleware import request_identity
from predictor.errors import PredictorError, Unavailable

# The same as over HTTP: what probes ask for.
_OPEN = frozenset({"ServerLive", "ServerReady", "ModelReady", "Check", "Watch"})


class ServingInterceptor(AsyncServerInterceptor):
    """Around every call, kserve's own interceptor for exceptions excepted.

    Args:
        gate: checks the API key in the metadata; None lets everybody in.
        open_routes: whether health needs no key.
    """

    def __init__(self, gate: Gate | None, *, open_routes: bool) -> None:
        self._gate = gate
        self._open_routes = open_routes

    async def intercept(
        self,
        method: Callable[[Any, Any], Any],
        request_or_iterator: Any,
        context: ServicerContext,
        method_name: str,
    ) -> Any:
        """Answer one call; see the class."""
        metadata = dict(context.invocation_metadata() or ())
        name = method_name.rpartition("/")[2]
        with request_identity(metadata.get("x-request-id", ""), path=None) as request_id:
            await context.send_initial_metadata((("x-request-id", request_id),))
            try:
                is_open = self._open_routes and name in _OPEN
                with (
                    nullcontext()
                    if self._gate is None or is_open
                    else self._gate.enter(metadata.get("authorization"))
                ):
                    return await method(request_or_iterator, context)
            except PredictorError as error:
                if isinstance(error, Unavailable):
                    context.set_trailing_metadata((("retry-after", str(error.retry_after)),))
                raise grpc_error(error) from error
