"""Wires the engine, the routers and kserve's model server together; nothing else."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
from functools import partial
from typing import TYPE_CHECKING

from predictor.serving.addresses import check_ports, in_url, listen_address, local_url, warn_if_open
from predictor.serving.deferred_imports import import_kserve
from predictor.serving.loading import BackgroundLoad
from predictor.serving.startup import StartupPlan, plan_startup
from predictor.settings import Settings
from predictor.telemetry.logs import add_request_fields, configure_logging
from predictor.telemetry.startup_times import StartupTimes

if TYPE_CHECKING:
    from kserve.protocol.dataplane import DataPlane
    from kserve.protocol.grpc.server import GRPCServer
    from kserve.protocol.model_repository_extension import ModelRepositoryExtension

    from predictor.access.gate import Gate
    from predictor.api.http.access import OpenRoutes
    from predictor.generation.served_models import ServedModels
    from predictor.serving.lifecycle import OpenServer

logger = logging.getLogger(__name__)


def run(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT.

    Returns:
        The exit status of the process.

    Raises:
        StartupError: the server can't start; the message says what to do.
    """
    times = StartupTimes()
    # A tenth of the imports' time goes into collections that find nothing; see `publish_and_watch`.
    gc.disable()
    configure_logging(settings)
    with times.measure("prepare"):
        check_ports(settings)
        warn_if_open(settings)
        plan = plan_startup(settings)
    # kserve takes longer to import than a small model to load, so both happen at once.
    load = BackgroundLoad(plan, times)
    try:
        _serve(settings, plan, load, times)
    finally:
        load.close()
    return 0


def _serve(settings: Settings, plan: StartupPlan, load: BackgroundLoad, times: StartupTimes) -> None:
    # kserve reads the command line when it is imported; the options there are ours.
    sys.argv = sys.argv[:1]
    with times.measure("imports"):
        import uvloop

        import_kserve()
        from kserve.model_server import app

        from predictor.access.gate import current_caller, gate_of
        from predictor.api.http.access import OpenRoutes
        from predictor.api.http.middleware import current_path, current_request_id
        from predictor.generation.served_models import ServedModels
        from predictor.serving.http_application import mount_protocols
        from predictor.serving.lifecycle import DrainingModelServer

    add_request_fields(request_id=current_request_id, path=current_path, api_key=current_caller)
    models = ServedModels(load.name, load.adapters, load.count_refused, aliases=load.aliases)
    gate = gate_of(settings, load.count_refused)
    served = mount_protocols(app, models, settings, gate)

    async def publish_and_watch() -> None:
        models.publish(await load.wait())
        load.record_start()
        # What was imported stays for good: collections hold up the loop, and needn't go through it each time.
        gc.collect()
        gc.freeze()
        gc.enable()
        logger.info("model %r is ready on %s", load.name, local_url(settings))
        await load.watch()

    server = DrainingModelServer(
        models,
        publish_and_watch,
        lambda: load.drain(settings.grace_period_seconds),
        host=listen_address(settings),
        http_port=settings.http_port,
        client_seconds=settings.client_timeout_seconds,
        certificate=plan.certificate,
        grpc_server=partial(_grpc_server, settings, plan, models, gate) if settings.enable_grpc else None,
        open_server=_open_server(settings, OpenRoutes(app)) if settings.open_port else None,
        enable_latency_logging=False,
        workers=1,
    )
    # kserve starts asyncio's own loop whatever its --event-loop says, and wants one to exist before.
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    asyncio.set_event_loop(asyncio.new_event_loop())
    server.serve(served)


def _open_server(settings: Settings, app: OpenRoutes) -> OpenServer:
    from predictor.serving.lifecycle import OpenServer

    assert settings.open_port is not None
    return OpenServer(
        app,
        listen_address(settings),
        settings.open_port,
        client_seconds=settings.client_timeout_seconds,
    )


def _grpc_server(
    settings: Settings,
    plan: StartupPlan,
    models: ServedModels,
    gate: Gate | None,
    dataplane: DataPlane,
    repository: ModelRepositoryExtension,
) -> GRPCServer:
    from predictor.api.open_inference.grpc_calls import ServingInterceptor
    from predictor.serving.grpc_server import ServingGRPCServer
    from predictor.serving.lifecycle import CLOSE_SECONDS

    return ServingGRPCServer(
        f"{in_url(listen_address(settings))}:{settings.grpc_port}",
        dataplane,
        repository,
        models=models,
        interceptors=[ServingInterceptor(gate, open_routes=settings.open_port is None)],
        max_message_bytes=settings.max_body_bytes,
        certificate=plan.certificate,
        grace_period=CLOSE_SECONDS,
    )
