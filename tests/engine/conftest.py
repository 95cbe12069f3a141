"""An engine on the real model, shared by the tests that don't need one of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from predictor.engine.config import EngineConfig
from predictor.engine.engine import Engine

MakeEngine = Callable[..., Engine]


@pytest.fixture
def make_engine(model_path: Path) -> Iterator[MakeEngine]:
    """Starts engines on the demo model and closes them after the test."""
    engines: list[Engine] = []

    def make(**options: Any) -> Engine:
        defaults = {"model_path": model_path, "threads": 2, "batch_threads": 2}
        engines.append(Engine(EngineConfig(**defaults | options)))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


@pytest.fixture(scope="module")
def engine(model_path: Path) -> Iterator[Engine]:
    """One engine with the default sizes."""
    engine = Engine(EngineConfig(model_path=model_path, threads=2, batch_threads=2))
    yield engine
    engine.close()
