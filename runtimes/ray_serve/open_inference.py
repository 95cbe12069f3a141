"""kserve's service of the Open Inference Protocol, called without kserve's gRPC server."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, NoReturn

import grpc
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.grpc import grpc_predict_v2_pb2 as messages
from kserve.protocol.grpc.interceptors import ExceptionToStatusInterceptor
from kserve.protocol.grpc.servicer import InferenceServicer
from kserve.protocol.model_repository_extension import ModelRepositoryExtension

from runtimes.ray_serve.grpc_service import GrpcAnswer


class OpenInferenceService:
    """Answers calls as kserve's server does, errors included.

    Args:
        data_plane: answers them.
        repository: answers those that load and unload.
    """

    def __init__(self, data_plane: DataPlane, repository: ModelRepositoryExtension) -> None:
        self._servicer = InferenceServicer(data_plane, repository)
        self._errors = ExceptionToStatusInterceptor()

    async def call(self, method: str, request: bytes, metadata: list[tuple[str, str]]) -> GrpcAnswer:
        """Answer one call; see `EngineReplica.infer` for the arguments."""
        message = getattr(messages, f"{method}Request").FromString(request)
        try:
            answer = await self._errors.intercept(
                getattr(self._servicer, method), message, _Context(metadata), method
            )
        except _Aborted as end:
            return GrpcAnswer(b"", end.code.name, end.details)
        return GrpcAnswer(answer.SerializeToString())


class _Aborted(Exception):
    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self.code = code
        self.details = details


class _Context:
    """The part of grpc.aio.ServicerContext that kserve uses."""

    def __init__(self, metadata: list[tuple[str, str]]) -> None:
        self._metadata = [SimpleNamespace(key=key, value=value) for key, value in metadata]

    def invocation_metadata(self) -> list[Any]:
        return self._metadata

    def code(self) -> None:
        """Nothing was set; `abort` is the only way to end with an error."""

    async def abort(self, code: grpc.StatusCode, details: str = "") -> NoReturn:
        raise _Aborted(code, details)
