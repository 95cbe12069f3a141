"""The KServe model of a server that sends traces."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from kserve import InferRequest, InferResponse

from predictor.api.open_inference.model import LlamaCppModel
from predictor.telemetry.tracing import continued_trace


class TracedModel(LlamaCppModel):
    """Takes the caller's trace from gRPC metadata as well, which no ASGI middleware sees."""

    async def predict(
        self,
        payload: dict[str, Any] | InferRequest,
        headers: dict[str, str] | None = None,
        response_headers: dict[str, str] | None = None,
    ) -> dict[str, Any] | InferResponse:
        """See `LlamaCppModel`."""
        with continued_trace(headers or {}):
            return await super().predict(payload, headers, response_headers)

    async def stream(
        self, payload: InferRequest, headers: dict[str, str]
    ) -> AsyncGenerator[InferResponse, None]:
        """See `LlamaCppModel`."""
        with continued_trace(headers):
            async for piece in super().stream(payload, headers):
                yield piece
