"""A Ray cluster for all tests of a module, and two models that can be told apart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from deployed_application import Deployed

from benchmarks.ray_cluster import ray_cluster
from scripts.free_ports import free_port

SYSTEM_MESSAGE = b"You are a helpful AI assistant named SmolLM"


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
