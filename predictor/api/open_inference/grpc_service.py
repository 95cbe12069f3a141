"""The gRPC methods beyond kserve's: Triton's streamed inference and questions, and gRPC's own health service.

Sources: https://github.com/triton-inference-server/common/blob/main/protobuf/grpc_service.proto and
https://github.com/grpc/grpc/blob/master/doc/health-checking.md
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc
from google.protobuf.json_format import ParseDict
from grpc_health.v1 import health_pb2, health_pb2_grpc
from kserve import InferRequest
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.grpc import grpc_predict_v2_pb2 as messages
from kserve.protocol.grpc.servicer import InferenceServicer
from kserve.utils.utils import to_headers

from predictor.api.http.errors import problem_of
from predictor.api.open_inference import triton_pb2 as triton
from predictor.api.open_inference.tensor_sizes import check_grpc_request
from predictor.api.open_inference.triton import TritonExtensions
from predictor.errors import PredictorError
from predictor.generation.served_models import ServedModels

logger = logging.getLogger(__name__)

SERVICE = "inference.GRPCInferenceService"
WATCH_SECONDS = 0.5


class BoundedServicer(InferenceServicer):  # type: ignore[misc]
    """kserve's methods, for requests of a sensible size."""

    async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Answer one call.

        Raises:
            InvalidRequest: a tensor has too many elements.
        """
        check_grpc_request(request)
        return await super().ModelInfer(request, context)


class TritonServicer:
    """Triton's methods that kserve's protocol file lacks.

    Args:
        data_plane: knows the models.
        models: what is served.
    """

    def __init__(self, data_plane: DataPlane, models: ServedModels) -> None:
        self._data_plane = data_plane
        self._extensions = TritonExtensions(models)

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register the methods beside kserve's."""
        handlers = {
            "ModelStreamInfer": grpc.stream_stream_rpc_method_handler(
                self.stream_infer,
                request_deserializer=messages.ModelInferRequest.FromString,
                response_serializer=triton.ModelStreamInferResponse.SerializeToString,
            )
        }
        for name, method, request in (
            ("ModelConfig", self.config, triton.ModelConfigRequest),
            ("ModelStatistics", self.statistics, triton.ModelStatisticsRequest),
            ("RepositoryIndex", self.index, triton.RepositoryIndexRequest),
        ):
            handlers[name] = grpc.unary_unary_rpc_method_handler(
                method,
                request_deserializer=request.FromString,
                response_serializer=lambda answer: answer.SerializeToString(),
            )
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))

    async def config(self, request: Any, context: Any) -> Any:
        """A model's configuration."""
        return ParseDict({"config": self._extensions.config(request.name)}, triton.ModelConfigResponse())

    async def statistics(self, request: Any, context: Any) -> Any:
        """A model's figures, or all."""
        return ParseDict(self._extensions.statistics(request.name), triton.ModelStatisticsResponse())

    async def index(self, request: Any, context: Any) -> Any:
        """The names that are served."""
        models = [
            model for model in self._extensions.index() if model["state"] == "READY" or not request.ready
        ]
        return ParseDict({"models": models}, triton.RepositoryIndexResponse())

    async def stream_infer(self, requests: AsyncIterator[Any], context: Any) -> None:
        """Answer the requests of a stream side by side, each piece by piece, until all are done.

        A request that can't be answered gets an error of its own, and the others go on.
        """
        answers: asyncio.Queue[Any] = asyncio.Queue()
        reading = asyncio.create_task(self._read(requests, to_headers(context), answers))
        try:
            while (response := await answers.get()) is not None:
                await context.write(response)
            await reading
        finally:
            reading.cancel()

    async def _read(
        self, requests: AsyncIterator[Any], headers: dict[str, str], answers: asyncio.Queue[Any]
    ) -> None:
        try:
            async with asyncio.TaskGroup() as running:
                async for request in requests:
                    running.create_task(self._answer(request, headers, answers))
        finally:
            answers.put_nowait(None)

    async def _answer(self, request: Any, headers: dict[str, str], answers: asyncio.Queue[Any]) -> None:
        try:
            check_grpc_request(request)
            InferenceServicer.validate_grpc_request(request)
            await self._data_plane.model_ready(request.model_name, True)
            model = self._data_plane.get_model_from_registry(request.model_name)
            async for piece in model.stream(InferRequest.from_grpc(request), headers):
                is_last = _is_last(piece)
                answer = piece.to_grpc()
                answer.parameters["triton_final_response"].bool_param = is_last
                answers.put_nowait(triton.ModelStreamInferResponse(infer_response=answer.SerializeToString()))
        except Exception as error:
            if not isinstance(error, PredictorError):
                logger.exception("a streamed request failed")
            nothing = messages.ModelInferResponse(id=request.id[:256], model_name=request.model_name[:256])
            answers.put_nowait(
                triton.ModelStreamInferResponse(
                    error_message=_text(error), infer_response=nothing.SerializeToString()
                )
            )


def _is_last(piece: Any) -> bool:
    """Whether a streamed answer ends with this piece: it has a finish reason, or is an embedding."""
    reasons = [output.data[0] for output in piece.outputs if output.name == "finish_reason"]
    return not reasons or reasons[0] not in ("", b"")


def _text(error: Exception) -> str:
    # kserve's own errors have a reason that was written for users.
    reason = getattr(error, "reason", None)
    return str(reason)[:1000] if reason else problem_of(error).message


class HealthServicer(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """`grpc.health.v1`: the server as "", and each model by its name.

    Args:
        models: whose readiness counts.
    """

    def __init__(self, models: ServedModels) -> None:
        self._models = models

    async def Check(self, request: Any, context: Any) -> Any:  # noqa: N802
        """The state now."""
        status = self._status(request.service)
        if status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"{request.service[:256]!r} is not served here")
        return health_pb2.HealthCheckResponse(status=status)

    async def Watch(self, request: Any, context: Any) -> None:  # noqa: N802
        """The state now and whenever it changes."""
        last = None
        while True:
            status = self._status(request.service)
            if status != last:
                await context.write(health_pb2.HealthCheckResponse(status=status))
            last = status
            await asyncio.sleep(WATCH_SECONDS)

    def _status(self, service: str) -> int:
        states = health_pb2.HealthCheckResponse
        names = self._models.names
        if service not in ("", SERVICE, *names):
            return int(states.SERVICE_UNKNOWN)
        asked = [service] if service in names else names
        ready = all(self._models.is_ready(name) for name in asked)
        return int(states.SERVING if ready else states.NOT_SERVING)
