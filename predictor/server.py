"""Wires the engine, the routers and kserve's model server together; nothing else."""

from __future__ import annotations

import asyncio
import logging
import sys

from predictor.deferred_imports import import_kserve
from predictor.loading import BackgroundLoad
from predictor.logs import add_request_fields, configure_logging
from predictor.settings import Settings
from predictor.startup import check_ports, plan_startup
from predictor.telemetry.startup_times import StartupTimes

logger = logging.getLogger(__name__)


def run(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT.

    Returns:
        The exit status of the process.

    Raises:
        StartupError: the server can't start; the message says what to do.
    """
    times = StartupTimes()
    configure_logging(settings)
    with times.measure("prepare"):
        check_ports(settings)
        plan = plan_startup(settings)
    # kserve takes longer to import than a small model to load, so both happen at once.
    load = BackgroundLoad(plan, times)
    try:
        _serve(settings, load, times)
    finally:
        load.close()
    return 0


def _serve(settings: Settings, load: BackgroundLoad, times: StartupTimes) -> None:
    # kserve reads the command line when it is imported; the options there are ours.
    sys.argv = sys.argv[:1]
    with times.measure("imports"):
        import uvloop

        import_kserve()
        from kserve.model_server import app
        from kserve.model_server import args as kserve_args

        from predictor.api.middleware import current_path, current_request_id
        from predictor.http_application import mount_protocols
        from predictor.lifecycle import DrainingModelServer
        from predictor.served_models import ServedModels

    add_request_fields(request_id=current_request_id, path=current_path)
    kserve_args.grpc_max_receive_message_length = settings.max_body_bytes
    models = ServedModels([load.name])
    model = mount_protocols(app, models, load.name, settings)

    async def publish_and_watch() -> None:
        models.publish(load.name, await load.wait())
        load.record_start()
        logger.info("model %r is ready on port %d", load.name, settings.http_port)
        await load.watch()

    server = DrainingModelServer(
        models,
        publish_and_watch,
        lambda: load.drain(settings.grace_period_seconds),
        http_port=settings.http_port,
        grpc_port=settings.grpc_port,
        enable_grpc=settings.enable_grpc,
        enable_latency_logging=False,
        workers=1,
    )
    # kserve starts asyncio's own loop whatever its --event-loop says, and wants one to exist before.
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    asyncio.set_event_loop(asyncio.new_event_loop())
    server.serve([model])
