"""Observers that fail must not take requests with them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from predictor.engine.config import EngineConfig
from predictor.engine.engine import Engine
from predictor.engine.request import FinishReason, Request, SamplingParams
from predictor.errors import InvalidRequest
from predictor.generation.text import collect


class Broken:
    """Raises whatever it is told."""

    def token_sampled(self, *_: Any) -> None:
        raise RuntimeError("token")

    def ended(self, *_: Any) -> None:
        raise RuntimeError("ended")

    def refused(self, *_: Any) -> None:
        raise RuntimeError("refused")


async def test_an_observer_that_fails_costs_a_log_line_only(
    model_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    config = EngineConfig(model_path=model_path, threads=2, batch_threads=2, context_tokens=512)
    engine = Engine(config, Broken())
    try:
        for _ in range(2):
            request = Request("test", (1, 2, 3), SamplingParams(max_tokens=3, ignore_eos=True))
            [stream] = engine.submit_all([request])
            answer = await collect(stream, 3)
            assert (answer.finish_reason, answer.completion_tokens) == (FinishReason.LENGTH, 3)
        with pytest.raises(InvalidRequest):
            engine.submit_all([Request("test", (), SamplingParams())])
        assert engine.failure is None
    finally:
        engine.close()
    assert {str(record.exc_info[1]) for record in caplog.records if record.exc_info} == {
        "token",
        "ended",
        "refused",
    }
