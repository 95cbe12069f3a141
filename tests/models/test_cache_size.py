"""The cache's size as the header tells it, against what llama.cpp allocates for random models."""

from __future__ import annotations

from pathlib import Path

import pytest

from predictor.models.cache_size import CacheShape, cache_bytes, is_recurrent
from predictor.models.gguf import read_header
from tests.models.random_models import FAMILIES, SHAPES, allocated, write_header

# Of llama.cpp's log, which has two decimals of a MiB.
ROUNDING = 0.01 * 2**20


@pytest.fixture(scope="module")
def sizes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, list[int]]]:
    """What llama.cpp allocates, by family."""
    folder = tmp_path_factory.mktemp("random")
    paths = [
        write_header(folder / f"{number}.gguf", *family) for number, family in enumerate(FAMILIES.values())
    ]
    return dict(zip(FAMILIES, zip(paths, allocated(paths, SHAPES), strict=True), strict=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_estimate_is_what_is_allocated(family: str, sizes: dict[str, tuple[Path, list[int]]]) -> None:
    path, real = sizes[family]
    header = read_header(path)
    for shape, size in zip(SHAPES, real, strict=True):
        assert cache_bytes(header, shape) == pytest.approx(size, rel=0.02, abs=ROUNDING), shape


def test_slots_are_rounded_up_each() -> None:
    assert CacheShape(1024, sequences=16).cells == 1024
    assert CacheShape(1024, sequences=16, slots=True).cells == 16 * 256
    assert CacheShape(16 * 300, sequences=16, slots=True).cells == 16 * 512


def test_what_cannot_be_cut(tmp_path: Path) -> None:
    headers = {name: read_header(write_header(tmp_path / "m", *FAMILIES[name])) for name in FAMILIES}
    recurrent = {name for name, header in headers.items() if is_recurrent(header)}
    assert recurrent == {name for name in FAMILIES if name.startswith(("recurrent", "hybrid"))}
