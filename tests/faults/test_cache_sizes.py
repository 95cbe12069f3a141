"""Memory estimates against what llama.cpp allocates, for contexts of random shapes of every family."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from predictor.models.cache_size import CacheShape, cache_bytes
from predictor.models.gguf import read_header
from tests.models.random_models import FAMILIES, allocated, write_header

ROUNDS = 4
pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]


def shape(chance: random.Random) -> CacheShape:
    sequences = chance.randint(1, 16)
    number_type = chance.choice(["f16", "q8_0"])
    return CacheShape(
        tokens=chance.randint(1500, 6000) * (sequences if chance.random() < 0.3 else 1),
        sequences=sequences,
        slots=chance.random() < 0.5,
        number_type=number_type,
        flash_attention=chance.choice(["auto", "off"]) if number_type == "f16" else "auto",
    )


def test_estimates_of_random_contexts(tmp_path: Path, record: Any) -> None:
    paths = {
        name: write_header(tmp_path / f"{number}.gguf", *family)
        for number, (name, family) in enumerate(FAMILIES.items())
    }
    checked, worst, wrong = 0, 0.0, []
    for seed in range(ROUNDS):
        chance = random.Random(seed)
        shapes = [shape(chance) for _ in range(8)]
        for name, real in zip(FAMILIES, allocated(list(paths.values()), shapes), strict=True):
            header = read_header(paths[name])
            for one, size in zip(shapes, real, strict=True):
                off = abs(cache_bytes(header, one) - size) / size if size else cache_bytes(header, one)
                checked, worst = checked + 1, max(worst, off)
                if off > 0.02:
                    wrong.append((name, one, size, cache_bytes(header, one)))
    assert not wrong, wrong[:5]
    record(
        "Memory estimates of random contexts",
        checked,
        checked,
        0,
        f"{len(FAMILIES)} families of architectures, each with {8 * ROUNDS} shapes of context; the furthest "
        f"estimate was {worst:.1%} off, of which up to 1% is rounding in llama.cpp's log",
    )
