"""kserve's service of the Open Inference Protocol, called without kserve's gRPC server."""

from __future__ import annotations

from typing import Any, NamedTuple, NoReturn

import grpc
from google.protobuf.message import DecodeError
from grpc_interceptor.server import AsyncServerInterceptor
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.grpc import grpc_predict_v2_pb2 as messages
from kserve.protocol.grpc.interceptors import ExceptionToStatusInterceptor
from kserve.protocol.model_repository_extension import ModelRepositoryExtension

from predictor.api.open_inference.grpc_service import BoundedServicer
from runtimes.ray_serve.grpc_service import GrpcAnswer


class OpenInferenceService:
    """Answers calls as kserve's server does, errors included.

    Args:
        data_plane: answers them.
        repository: answers those that load and unload.
        interceptor: stands before them.
    """

    def __init__(
        self,
        data_plane: DataPlane,
        repository: ModelRepositoryExtension,
        interceptor: AsyncServerInterceptor,
    ) -> None:
        self._servicer = BoundedServicer(data_plane, repository)
        self._interceptor = interceptor
        self._errors = ExceptionToStatusInterceptor()

    async def call(self, method: str, request: bytes, metadata: list[tuple[str, str]]) -> GrpcAnswer:
        """Answer one call; see `EngineReplica.infer` for the arguments."""
        try:
            message = getattr(messages, f"{method}Request").FromString(request)
        except DecodeError as error:
            details = f"the message is no {method}Request of the Open Inference Protocol: {error}"
            return GrpcAnswer(b"", grpc.StatusCode.INVALID_ARGUMENT.name, details)
        implementation = getattr(self._servicer, method)

        async def intercepted(request: Any, context: Any) -> Any:
            return await self._interceptor.intercept(implementation, request, context, method)

        try:
            answer = await self._errors.intercept(intercepted, message, _Context(metadata), method)
        except _Aborted as end:
            return GrpcAnswer(b"", end.code.name, end.details)
        return GrpcAnswer(answer.SerializeToString())


class _Aborted(Exception):
    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self.code = code
        self.details = details


class _Metadatum(NamedTuple):
    key: str
    value: str


class _Context:
    """The part of grpc.aio.ServicerContext that kserve uses."""

    def __init__(self, metadata: list[tuple[str, str]]) -> None:
        self._metadata = [_Metadatum(*pair) for pair in metadata]

    def invocation_metadata(self) -> list[Any]:
        return self._metadata

    async def send_initial_metadata(self, metadata: object) -> None:
        """Nothing: Ray Serve sends none."""

    def set_trailing_metadata(self, metadata: object) -> None:
        """Nothing: Ray Serve sends none."""

    def code(self) -> None:
        """Nothing was set; `abort` is the only way to end with an error."""

    async def abort(self, code: grpc.StatusCode, details: str = "") -> NoReturn:
        raise _Aborted(code, details)
