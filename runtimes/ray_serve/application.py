"""Which deployments the application has, and how Ray is to run them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray import serve
from ray.serve.config import AutoscalingConfig
from ray.serve.schema import LoggingConfig

from predictor.cgroup import default_threads
from predictor.errors import StartupError
from predictor.settings import Settings, flag
from runtimes.ray_serve.gateway import Gateway
from runtimes.ray_serve.replica import EngineReplica

STABLE = "engine"
CANARY = "engine-canary"
GATEWAY = "gateway"

# Beside the requests that the engine runs or queues, so that it can refuse one and answer health checks.
SPARE_REQUESTS = 16
# From the last answer to the end of the process.
CLOSE_SECONDS = 5
# Replicas log every request themselves, in the form that was asked for.
LOGGING = LoggingConfig(enable_access_log=False)
# After so long a process that died is missed, and replaced.
HEALTH_CHECK_SECONDS = 2
# A model that was scaled to zero has so long to be loaded for the request that woke it.
HOLD_SECONDS = 300
PREFIX_ROUTER = "runtimes.ray_serve.router:PrefixRouter"


def build(settings: Settings) -> serve.Application:
    """The application: a gateway before the replicas of one model, or of two.

    Raises:
        StartupError: the model's name can't be known before it is loaded.
    """
    options = {
        **settings.model_dump(mode="json", exclude_none=True),
        "model_name": model_names(settings),
        "threads": replica_threads(settings),
    }
    engines = {"stable": _engine(STABLE, settings, options, settings.model)}
    if settings.canary_model is not None:
        engines["canary"] = _engine(CANARY, settings, options, settings.canary_model)
    gateway = serve.deployment(
        name=GATEWAY,
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=100_000,  # The replicas limit what is taken.
        logging_config=LOGGING,
        user_config={"canary_percent": settings.canary_percent},
        health_check_period_s=HEALTH_CHECK_SECONDS,
        # Longer than the replicas', so that it can say what became of requests that took too long.
        graceful_shutdown_timeout_s=settings.grace_period_seconds + 2 * CLOSE_SECONDS,
        graceful_shutdown_wait_loop_s=0.2,
    )
    return gateway(Gateway).bind(engines, settings.max_body_bytes, HOLD_SECONDS)


def model_names(settings: Settings) -> tuple[str, ...]:
    """The model's names in requests.

    Every deployment answers to them, whatever model it holds later, so they must be known
    before one is loaded.

    Raises:
        StartupError: the settings tell none.
    """
    if settings.model_name is not None:
        return settings.model_name
    if "://" in settings.model or not settings.model.endswith(".gguf"):
        raise StartupError(f"{settings.model} doesn't tell the model's name: give {flag('model_name')}")
    return (Path(settings.model).stem,)


def replica_threads(settings: Settings) -> int:
    """CPU threads of each replica: what was asked for, else its part of this machine's."""
    return settings.threads or max(1, default_threads() // most_replicas(settings))


def most_replicas(settings: Settings) -> int:
    """Replicas of all models together when all are busy."""
    models = 1 if settings.canary_model is None else 2
    return models * (settings.max_replicas or settings.replicas)


def _engine(deployment: str, settings: Settings, options: dict[str, Any], model: str) -> serve.Application:
    places = settings.max_sequences + settings.max_queue + SPARE_REQUESTS
    scaling: dict[str, Any] = {"num_replicas": settings.replicas}
    if settings.max_replicas is not None:
        scaling = {"num_replicas": "auto", "autoscaling_config": _autoscaling(settings)}
    if settings.routing == "prefix":
        scaling["request_router_config"] = {
            "request_router_class": PREFIX_ROUTER,
            "request_router_kwargs": {"most_ahead": max(1, settings.max_sequences // 2)},
        }
    engine = serve.deployment(
        name=deployment,
        ray_actor_options={"num_cpus": options["threads"], "num_gpus": settings.replica_gpus},
        max_ongoing_requests=places,
        max_queued_requests=places,
        logging_config=LOGGING,
        user_config={"model": model},
        health_check_period_s=HEALTH_CHECK_SECONDS,
        health_check_timeout_s=30,
        graceful_shutdown_timeout_s=settings.grace_period_seconds + CLOSE_SECONDS,
        graceful_shutdown_wait_loop_s=0.2,
        **scaling,
    )
    return engine(EngineReplica).bind(options)


def _autoscaling(settings: Settings) -> AutoscalingConfig:
    return AutoscalingConfig(
        min_replicas=settings.replicas if settings.min_replicas is None else settings.min_replicas,
        max_replicas=settings.max_replicas or 1,
        target_ongoing_requests=settings.max_sequences,
        upscale_delay_s=5,
        downscale_delay_s=300,
    )
