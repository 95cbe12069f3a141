"""Every token of random engines, computed again by itself; for ten minutes under `make test-faults`."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.engine.random_engines import World, live
from tests.family_models import FAMILIES

SECONDS = 30
# None is full attention, which has most ways to go wrong.
SHARES = {None: 0.4} | dict.fromkeys(FAMILIES, 0.6 / len(FAMILIES))


@pytest.mark.parametrize("family", SHARES)
async def test_no_token_is_computed_with_anything_but_its_own_sequence(
    family: str | None, tmp_path: Path
) -> None:
    seen: Counter[str] = Counter()
    world = World(tmp_path, family)
    ends = time.monotonic() + SECONDS * SHARES[family]
    while time.monotonic() < ends:
        with tempfile.TemporaryDirectory() as folder:
            seen += await live(world, Path(folder), seed=seen["engines"])
    world.close()
    assert seen["tokens"] > 100
    assert seen["scored"] > 100
