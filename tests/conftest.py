"""Fixtures that tests of all folders share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

MODEL_VARIABLE = "KSERVE_LLAMACPP_TEST_MODEL"


@pytest.fixture(scope="session")
def model_path() -> Path:
    """The demo model's GGUF file."""
    path = os.environ.get(MODEL_VARIABLE)
    if not path:
        pytest.fail(f"{MODEL_VARIABLE} is not set: run `make test`, which fetches the demo model")
    return Path(path)
