"""A kserve.ModelServer that listens while its model loads and drains before it stops.

kserve's own `stop` unloads the models while requests still run, and its server refuses to start without a
ready model. Here the model is registered unready, and SIGTERM first lets the running requests finish.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import kserve
import uvicorn
from grpc_interceptor.exceptions import PermissionDenied
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.grpc.server import GRPCServer
from kserve.protocol.model_repository_extension import ModelRepositoryExtension
from starlette.types import ASGIApp

from predictor.api.open_inference.dataplane import ServingDataPlane
from predictor.api.open_inference.repository import CLOSED
from predictor.generation.served_models import ServedModels
from predictor.serving.http_protocol import use_bounded_protocol
from predictor.serving.tls import CertificateFiles, renew_certificate

logger = logging.getLogger(__name__)

# uvicorn and gRPC end their connections within this after the last request is done.
CLOSE_SECONDS = 2


Address = IPv4Address | IPv6Address


def listen_on(config: uvicorn.Config, host: Address) -> None:
    """Set where a server listens.

    For :: asyncio would listen on IPv6 alone, and without an address on both, as gRPC does for ::.
    """
    config.host = None if host == IPv6Address("::") else str(host)  # type: ignore[assignment]


class ClosedRepository(ModelRepositoryExtension):  # type: ignore[misc]
    """Refuses to load and unload models on request, which kserve lets anybody do."""

    async def load(self, model_name: str) -> None:
        """Refuse."""
        raise PermissionDenied(CLOSED)

    async def unload(self, model_name: str) -> None:
        """Refuse."""
        raise PermissionDenied(CLOSED)


class OpenServer(uvicorn.Server):
    """Serves a part of the application on a port of its own, beside kserve's server.

    Args:
        app: what it serves.
        host: the address of `port`.
        port: where it listens.
        client_seconds: see `BoundedHttpProtocol`.
    """

    def __init__(self, app: ASGIApp, host: Address, port: int, *, client_seconds: float) -> None:
        config = uvicorn.Config(app, port=port, log_config=None, lifespan="off")
        listen_on(config, host)
        use_bounded_protocol(config, client_seconds)
        super().__init__(config)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Nothing: `DrainingModelServer` ends it."""
        yield


class DrainingModelServer(kserve.ModelServer):  # type: ignore[misc]
    """Starts with unready models and stops in order.

    Args:
        models: what it serves; withdrawn when the shutdown begins.
        background: runs beside the servers from the moment they listen; when it fails the server stops, and
            when the server stops it is cancelled.
        drain: waits for running requests on SIGTERM and SIGINT; cancelled by a second signal.
        host: the address of `http_port`.
        http_port: serves HTTP; over TLS where there is a certificate.
        client_seconds: see `BoundedHttpProtocol`.
        certificate: for TLS over HTTP.
        grpc_server: makes the gRPC server; None for no gRPC.
        open_server: serves health and metrics on a port of their own; None where they have none.
        options: kserve.ModelServer's own.
    """

    def __init__(
        self,
        models: ServedModels,
        background: Callable[[], Coroutine[Any, Any, None]],
        drain: Callable[[], Coroutine[Any, Any, None]],
        *,
        host: Address,
        http_port: int,
        client_seconds: float,
        certificate: CertificateFiles | None,
        grpc_server: Callable[[DataPlane, ModelRepositoryExtension], GRPCServer] | None,
        open_server: OpenServer | None,
        **options: Any,
    ) -> None:
        super().__init__(
            ssl_certfile=certificate and str(certificate.certificate),
            ssl_keyfile=certificate and str(certificate.key),
            # kserve's gRPC server takes neither interceptors nor certificates, so it starts none.
            enable_grpc=False,
            **options,
        )
        # kserve takes port 8443 for 8080 where there is a certificate.
        self.http_port = http_port
        self._host = host
        self._client_seconds = client_seconds
        self._certificate = certificate
        self._renewal: asyncio.Task[None] | None = None
        self._make_grpc_server = grpc_server
        self._open_server = open_server
        self._models = models
        self._background = background
        self._drain = drain
        self._failure: BaseException | None = None
        self._work: asyncio.Task[None] | None = None
        self._draining: asyncio.Task[None] | None = None
        self._stopping: asyncio.Task[None] | None = None
        self.dataplane = ServingDataPlane(self.registered_models, models)
        self.model_repository_extension = ClosedRepository(self.registered_models)
        self.grace_period = CLOSE_SECONDS

    def serve(self, models: list[kserve.Model]) -> None:
        """Serve until a signal or a failure of the background work ends it.

        Raises:
            Exception: what the background work failed with.
        """
        for model in models:
            self.register_model(model)
        self.servers.append(self._watch())
        if self._make_grpc_server is not None:
            self._grpc_server = self._make_grpc_server(self.dataplane, self.model_repository_extension)
            self.servers.append(self._grpc_server.start(self.max_threads))
        if self._open_server is not None:
            self.servers.append(self._open_server.serve())
        self.start([])
        if self._failure is not None:
            raise self._failure

    def setup_event_loop(self) -> None:
        """kserve calls this once it has made its HTTP server, and takes no options for it."""
        super().setup_event_loop()
        listen_on(self._rest_server.config, self._host)
        use_bounded_protocol(self._rest_server.config, self._client_seconds)

    def register_signal_handler(self) -> None:
        """Nothing: the handlers are set once uvicorn has set its own, which would otherwise win."""

    async def _watch(self) -> None:
        while not self._rest_server._server.started:
            await asyncio.sleep(0.005)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._begin_stop, f"received {number.name}")
        if self._certificate is not None:
            self._renewal = asyncio.create_task(
                renew_certificate(self._certificate, self._rest_server.config.ssl)
            )
        self._work = asyncio.create_task(self._background())
        await asyncio.wait((self._work,))
        if not self._work.cancelled() and (error := self._work.exception()) is not None:
            self._failure = error
            self._begin_stop("the model can't be served")

    def _begin_stop(self, reason: str) -> None:
        if self._draining is not None:
            logger.warning("%s again: stopping at once", reason)
            self._draining.cancel()
            return
        logger.info("%s: finishing what runs and taking nothing new", reason)
        self._models.withdraw_all()
        if self._work is not None:
            self._work.cancel()
        self._draining = asyncio.create_task(self._drain())
        self._stopping = asyncio.create_task(self._stop_servers(self._draining))

    async def _stop_servers(self, draining: asyncio.Task[None]) -> None:
        await asyncio.wait((draining,))
        if not draining.cancelled() and (error := draining.exception()) is not None:
            logger.error("the running requests could not be finished", exc_info=error)
        self._rest_server._server.should_exit = True
        if self._grpc_server is not None:
            await self._grpc_server.stop()
        if self._open_server is not None:
            self._open_server.should_exit = True
