"""`kserve-llamacpp serve --platform ray`: the application on a Ray cluster, until a signal ends it."""

from __future__ import annotations

import logging
import os
import signal
import threading
from importlib.util import find_spec

from predictor.cgroup import default_threads
from predictor.errors import StartupError
from predictor.logs import configure_logging
from predictor.settings import Settings
from predictor.startup import check_ports, plan_startup

logger = logging.getLogger(__name__)

GRPC_SERVICE = "runtimes.ray_serve.grpc_service.add_open_inference"
# Arguments over 100 kB pass through the object store, and nothing else does.
OBJECT_STORE_BYTES = 128 * 2**20
APPLICATION = "llamacpp"


def run(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT.

    With RAY_ADDRESS in the environment the application goes to that cluster; otherwise a cluster of this
    machine is started for it.

    Returns:
        The exit status of the process.

    Raises:
        StartupError: the application can't start; the message says what to do.
    """
    if find_spec("ray") is None:
        raise ModuleNotFoundError("No module named 'ray'", name="ray")
    configure_logging(settings)
    check_ports(settings)
    plan_startup(settings)
    # Ray reads these when it is imported, and passes them on to its own processes.
    os.environ.setdefault("RAY_SERVE_GRPC_MAX_MESSAGE_SIZE", str(settings.max_body_bytes))
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    stopped = threading.Event()
    _start_ray(settings)
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stopped.set())
        _deploy(settings)
        logger.info("model is ready on port %d", settings.http_port)
        stopped.wait()
        logger.info("finishing what runs and taking nothing new")
    finally:
        _stop_ray()
    return 0


def _start_ray(settings: Settings) -> None:
    import ray

    from runtimes.ray_serve.application import most_replicas, replica_threads

    if os.environ.get("RAY_ADDRESS"):
        ray.init(log_to_driver=True)
        return
    ray.init(
        address="local",  # Not one that somebody else has started on this machine.
        num_cpus=max(default_threads(), most_replicas(settings) * replica_threads(settings)),
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
        logging_level=logging.WARNING,
    )


def _deploy(settings: Settings) -> None:
    from ray import serve
    from ray.serve.config import HTTPOptions, gRPCOptions

    from runtimes.ray_serve.application import build

    serve.start(
        proxy_location="HeadOnly",
        http_options=HTTPOptions(host="0.0.0.0", port=settings.http_port),
        grpc_options=gRPCOptions(
            port=settings.grpc_port,
            grpc_servicer_functions=[GRPC_SERVICE] if settings.enable_grpc else [],
            enable_reflection=False,
        ),
    )
    try:
        serve.run(build(settings), name=APPLICATION, route_prefix="/")
    except RuntimeError as error:
        raise StartupError(f"Ray Serve could not start the application: {error}") from error


def _stop_ray() -> None:
    import ray
    from ray import serve

    serve.shutdown()  # type: ignore[no-untyped-call]
    ray.shutdown()
