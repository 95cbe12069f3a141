"""What is refused for its size, and what prefixes may take of the rest."""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest

from predictor.errors import ModelLoadError
from predictor.serving import startup
from predictor.serving.startup import plan_startup
from predictor.settings import Settings
from tests.tiny_models import tiny_bert, tiny_llama

MIB = 2**20


def plan_within(mib: float, monkeypatch: pytest.MonkeyPatch, path: Path, **options: object) -> int:
    """Bytes that prefixes may take where the process may take so many MiB."""
    monkeypatch.setattr(startup, "memory_limit", lambda: int(mib * MIB))
    plan = plan_startup(Settings(model=str(path), prefix_cache_mib=1000, **options))
    return plan.engine.host_cache_bytes


def test_slots_take_what_they_are_rounded_up_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """16 sequences of 64 tokens: 1,024 cells in a pool, 4,096 in slots of 256, at 256 bytes each."""
    path = tiny_llama(tmp_path / "m.gguf").path
    pool = plan_within(100, monkeypatch, path, context_tokens=1024)
    slots = plan_within(100, monkeypatch, path, max_sequence_tokens=64)
    assert 2 * (pool - slots) == 3072 * 256


def test_an_encoder_has_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tiny_bert(tmp_path / "m.gguf", gguf.PoolingType.MEAN).path
    assert plan_within(3, monkeypatch, path, context_tokens=100_000) > 0
    decoder = tiny_llama(tmp_path / "d.gguf").path
    with pytest.raises(ModelLoadError, match="does not fit"):
        plan_within(3, monkeypatch, decoder, context_tokens=100_000)


def test_prefixes_leave_room_for_the_draft_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tiny_llama(tmp_path / "m.gguf").path
    alone = plan_within(100, monkeypatch, path, context_tokens=8192)
    drafted = plan_within(100, monkeypatch, path, context_tokens=8192, draft_model=path)
    weights_and_cache = sum(t.size for t in startup.read_parts(path)[0].tensors) + 8192 * 256
    assert 2 * (alone - drafted) == pytest.approx(weights_and_cache, abs=2)


def test_slots_are_the_default_where_they_cost_little(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """16 sequences of 256 tokens, at 256 bytes each, are 1 MiB."""
    path = tiny_llama(tmp_path / "m.gguf").path

    def planned(mib: float, **options: object) -> tuple[int | None, int | None]:
        plan_within(mib, monkeypatch, path, **options)
        engine = plan_startup(Settings(model=str(path), **options)).engine
        return engine.context_tokens, engine.max_sequence_tokens

    assert planned(9) == (16 * 256, 256)
    assert planned(7) == (256, None)
    assert planned(9, context_tokens=512) == (512, None)
