"""kserve's gRPC server with TLS and with interceptors of ours, for which it has no options."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from grpc import aio
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc as services
from kserve.protocol.grpc.interceptors import ExceptionToStatusInterceptor
from kserve.protocol.grpc.server import GRPCServer
from kserve.protocol.model_repository_extension import ModelRepositoryExtension

from predictor.api.open_inference.grpc_service import BoundedServicer, HealthServicer, TritonServicer
from predictor.generation.served_models import ServedModels
from predictor.serving.tls import CertificateFiles, grpc_credentials

logger = logging.getLogger(__name__)

# By default gRPC ends a connection, and the answers on it, after a few pings within five minutes; clients who
# wait for long answers ping every ten seconds, because proxies forget silent connections.
_PINGS = (
    ("grpc.http2.min_ping_interval_without_data_ms", 1000),
    ("grpc.keepalive_permit_without_calls", 1),
)


class ServingGRPCServer(GRPCServer):  # type: ignore[misc]
    """Answers the V2 protocol, Triton's extensions of it, and gRPC's health service.

    Args:
        address: where it listens, an IP address and a port.
        dataplane: kserve's.
        repository: kserve's.
        models: what is served.
        interceptors: ours; kserve's makes status codes of what they raise.
        max_message_bytes: largest request accepted; a larger one is answered RESOURCE_EXHAUSTED.
        certificate: for TLS; None for none.
        grace_period: seconds that its connections may take to end.
    """

    def __init__(
        self,
        address: str,
        dataplane: DataPlane,
        repository: ModelRepositoryExtension,
        *,
        models: ServedModels,
        interceptors: Sequence[aio.ServerInterceptor],
        max_message_bytes: int,
        certificate: CertificateFiles | None,
        grace_period: int,
    ) -> None:
        port = int(address.rpartition(":")[2])
        super().__init__(port, dataplane, repository, kwargs={}, grace_period=grace_period)
        self._address = address
        self._models = models
        self._interceptors = (ExceptionToStatusInterceptor(), *interceptors)
        self._max_message_bytes = max_message_bytes
        self._certificate = certificate

    async def start(self, max_workers: int) -> None:
        """Serve until `stop`."""
        self._server = server = aio.server(
            interceptors=self._interceptors,
            options=[("grpc.max_receive_message_length", self._max_message_bytes), *_PINGS],
        )
        servicer = BoundedServicer(self._data_plane, self._model_repository_extension)
        services.add_GRPCInferenceServiceServicer_to_server(servicer, server)
        TritonServicer(self._data_plane, self._models).add_to(server)
        add_HealthServicer_to_server(HealthServicer(self._models), server)
        if self._certificate is None:
            server.add_insecure_port(self._address)
        else:
            server.add_secure_port(self._address, grpc_credentials(self._certificate))
        await server.start()
        await server.wait_for_termination()
