"""Every token of random engines, computed again by itself; for ten minutes under `make test-faults`."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.engine.random_engines import World, live

SECONDS = 30


async def test_no_token_is_computed_with_anything_but_its_own_sequence(tmp_path: Path) -> None:
    seen: Counter[str] = Counter()
    world = World(tmp_path)
    ends = time.monotonic() + SECONDS
    while time.monotonic() < ends:
        with tempfile.TemporaryDirectory() as folder:
            seen += await live(world, Path(folder), seed=seen["engines"])
    world.close()
    assert seen["tokens"] > 100
