"""A Ray cluster for all tests of a module, and two models that can be told apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from server_process import free_port

from benchmarks.ray_cluster import RayCluster, ray_cluster

SYSTEM_MESSAGE = b"You are a helpful AI assistant named SmolLM"


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
        self, *, model: Path | None = None, canary_percent: int | None = None, **settings: Any
    ) -> None:
        """Deploy it, or change what is deployed: Ray compares with the last configuration."""
        deployments: list[Mapping[str, Any]] = [
            {"name": "engine", "user_config": {"model": str(model or self.first)}}
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


@pytest.fixture(scope="session")
def second_model(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model with another system message of the same length in its chat template."""
    content = model_path.read_bytes()
    assert content.count(SYSTEM_MESSAGE) == 1
    letters = b" ".join(bytes([letter]) for letter in range(ord("a"), ord("z")))
    path = tmp_path_factory.mktemp("models") / "second.gguf"
    path.write_bytes(content.replace(SYSTEM_MESSAGE, letters[: len(SYSTEM_MESSAGE)]))
    return path


@pytest.fixture(scope="module")
def deployed(
    model_path: Path, second_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployed]:
    """A cluster without an application yet."""
    with ray_cluster(4, tmp_path_factory.mktemp("ray") / "log") as cluster:
        yield Deployed(cluster, free_port(), model_path, second_model)
