"""The application on a Ray cluster, deployed and changed as an operator does it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.ray_cluster import RayCluster


@dataclass(frozen=True)
class Deployed:
    """The application on a cluster.

    Attributes:
        cluster: it runs there.
        url: of its HTTP proxy.
        first, second: models that count different prompt tokens for the same messages.
    """

    cluster: RayCluster
    port: int
    first: Path
    second: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def deploy(
        self,
        *,
        model: Path | None = None,
        canary_percent: int | None = None,
        engine: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        """Deploy it, or change what is deployed: Ray compares with the last configuration.

        Args:
            model: for `user_config`, the first by default.
            canary_percent: None leaves the gateway's configuration out.
            engine: more of Ray's fields for the deployment `engine`.
            settings: for `args`.
        """
        deployments: list[Mapping[str, Any]] = [
            {"name": "engine", "user_config": {"model": str(model or self.first)}, **(engine or {})}
        ]
        if canary_percent is not None:
            deployments.append({"name": "gateway", "user_config": {"canary_percent": canary_percent}})
        arguments = {"model": str(self.first), "model_name": "smol", "threads": 1, "context_tokens": 2048}
        application = {
            "name": "llamacpp",
            "route_prefix": "/",
            "import_path": "runtimes.ray_serve:app",
            "args": {**arguments, **settings},
            "deployments": deployments,
        }
        options = {"host": "127.0.0.1", "port": self.port}
        self.cluster.deploy(
            {"proxy_location": "HeadOnly", "http_options": options, "applications": [application]}
        )
