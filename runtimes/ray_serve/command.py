"""`kserve-llamacpp serve --platform ray`: the application on a Ray cluster, until a signal ends it."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING, Any

from predictor.cgroup import default_threads
from predictor.errors import StartupError
from predictor.serving.addresses import EVERYWHERE, check_ports, listen_address, local_url, warn_if_open
from predictor.serving.startup import plan_startup
from predictor.settings import Settings, flag
from predictor.telemetry.logs import configure_logging
from runtimes.ray_serve.proxy import ENVIRONMENT

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

logger = logging.getLogger(__name__)

GRPC_SERVICE = "runtimes.ray_serve.grpc_service.add_open_inference"
# Arguments over 100 kB pass through the object store, and nothing else does.
OBJECT_STORE_BYTES = 128 * 2**20
APPLICATION = "llamacpp"
CALL_SECONDS = 5
"""Time for a call to a replica, beside what the method itself takes."""


def run(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT.

    With RAY_ADDRESS in the environment the application goes to that cluster, which is left as it was;
    otherwise a cluster of this machine is started for it.

    Returns:
        The exit status of the process.

    Raises:
        StartupError: the application can't start; the message says what to do.
    """
    configure_logging(settings)
    check_ports(settings)
    warn_if_open(settings)
    _warn_of_grpc(settings)
    plan_startup(settings)
    # For the processes that Ray starts.
    size = {"RAY_SERVE_GRPC_MAX_MESSAGE_SIZE": str(settings.max_body_bytes)}
    for name, value in {**ENVIRONMENT, **size, "RAY_USAGE_STATS_ENABLED": "0"}.items():
        os.environ.setdefault(name, value)
    signals, joins = _Signals(), bool(os.environ.get("RAY_ADDRESS"))
    _start_ray(settings, joins)
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signals)
        _deploy(settings)
        signals.end_the_process = False
        logger.info("model is ready on %s", local_url(settings))
        _call_replicas(_handles(settings), "check_health")  # Finding them takes a second: not at the end.
        signals.first.wait()
    finally:
        signals.end_the_process = False
        logger.info("finishing what runs and taking nothing new")
        # After a signal in mid-start too: replicas take requests before Ray says that they are ready.
        _drain(settings, signals.second)
        _stop_ray(joins)
    return 0


def _warn_of_grpc(settings: Settings) -> None:
    if settings.enable_grpc and settings.api_key_file is None and listen_address(settings) != EVERYWHERE:
        logger.warning(
            "Ray Serve's gRPC proxy listens on all networks whatever %s says: whoever reaches port %d may "
            "call; give %s, or --no-enable-grpc",
            flag("host"),
            settings.grpc_port,
            flag("api_key_file"),
        )


class _Signals:
    """Handles SIGTERM and SIGINT.

    Attributes:
        end_the_process: whether the first one ends it without more ado.
        first: set by the first one.
        second: set by the second one.
    """

    def __init__(self) -> None:
        self.end_the_process = True
        self.first, self.second = threading.Event(), threading.Event()

    def __call__(self, *_: object) -> None:
        (self.second if self.first.is_set() else self.first).set()
        if self.end_the_process:
            self.end_the_process = False
            sys.exit(0)


def _start_ray(settings: Settings, joins: bool) -> None:
    import ray

    from runtimes.ray_serve.application import most_replicas, replica_threads

    if joins:
        ray.init(log_to_driver=True)
        return
    try:
        ray.init(
            address="local",  # Not one that somebody else has started on this machine.
            num_cpus=max(default_threads(), most_replicas(settings) * replica_threads(settings)),
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            logging_level=logging.WARNING,
        )
    except Exception as error:  # Ray raises bare exceptions, such as where the machine is too busy to start.
        raise StartupError(f"Ray can't be started on this machine: {error}") from error


def _deploy(settings: Settings) -> None:
    from ray import serve
    from ray.serve.config import HTTPOptions, gRPCOptions

    from runtimes.ray_serve.application import LOGGING, build

    serve.start(
        proxy_location="HeadOnly",
        http_options=HTTPOptions(host=str(listen_address(settings)), port=settings.http_port),
        grpc_options=gRPCOptions(
            port=settings.grpc_port,
            grpc_servicer_functions=[GRPC_SERVICE] if settings.enable_grpc else [],
            enable_reflection=False,
        ),
        logging_config=LOGGING,
    )
    try:
        serve.run(build(settings), name=APPLICATION, route_prefix="/")
    except RuntimeError as error:
        raise StartupError(f"Ray Serve could not start the application: {error}") from error


def _handles(settings: Settings) -> list[DeploymentHandle[Any]]:
    """Handles of the engines' deployments, as far as there are any yet."""
    from ray import serve
    from ray.serve.exceptions import RayServeException

    from runtimes.ray_serve.application import CANARY, STABLE

    names = [STABLE] if settings.canary_model is None else [STABLE, CANARY]
    try:
        return [serve.get_deployment_handle(name, APPLICATION) for name in names]
    except (KeyError, RayServeException):
        return []


def _drain(settings: Settings, hurry: threading.Event) -> None:
    """Let the running requests finish within the grace period and refuse new ones, in every replica.

    Ray's own shutdown begins with the proxy, which ends all connections.
    """
    from ray import serve

    handles = _handles(settings)
    if not handles:
        return

    def cut() -> None:
        hurry.wait()
        _call_replicas(handles, "drain", 0)

    threading.Thread(target=cut, name="cut", daemon=True).start()
    _call_replicas(handles, "drain", settings.grace_period_seconds)
    serve.delete(APPLICATION)  # The gateway passes the last answers on.


def _call_replicas(
    handles: Sequence[DeploymentHandle[Any]], method: str, seconds: float | None = None
) -> None:
    """Call a method of all replicas, with the time that it may take if it takes one, and wait for it."""
    from ray.exceptions import RayError
    from ray.serve.exceptions import DeploymentUnavailableError

    def call(handle: DeploymentHandle[Any]) -> None:
        arguments = () if seconds is None else (seconds,)
        try:
            handle.broadcast(method, *arguments).results(timeout_s=(seconds or 0) + CALL_SECONDS)
        except DeploymentUnavailableError:
            pass  # It is scaled to zero.
        except (RayError, TimeoutError) as error:
            logger.warning(
                "%s: not all replicas could be told to %s: %s", handle.deployment_name, method, error
            )

    with ThreadPoolExecutor(len(handles)) as pool:
        list(pool.map(call, handles))


def _stop_ray(joined: bool) -> None:
    import ray
    from ray import serve

    if joined:
        ray.shutdown()
        return
    # Ray prints what its processes say about each other's end, such as tasks that are "retried" for ever. Our
    # own log has its stream already.
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        serve.shutdown()  # type: ignore[no-untyped-call]
        ray.shutdown()
