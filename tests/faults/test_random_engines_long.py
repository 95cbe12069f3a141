"""Every token of random engines, computed again by itself."""

from __future__ import annotations

import random
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.engine.random_engines import World, live
from tests.family_models import FAMILIES

SECONDS = 600
pytestmark = [pytest.mark.faults, pytest.mark.timeout(2 * SECONDS)]


async def test_random_engines_for_minutes(tmp_path: Path, record: Any) -> None:
    seen: Counter[str] = Counter()
    # Half of the time for full attention, which has most ways to go wrong.
    shares = {None: 0.5} | dict.fromkeys(FAMILIES, 0.5 / len(FAMILIES))
    first = random.randrange(2**32)
    for family, share in shares.items():
        world = World(tmp_path, family)
        ends = time.monotonic() + SECONDS * share
        while time.monotonic() < ends:
            with tempfile.TemporaryDirectory() as folder:
                seen += await live(world, Path(folder), seed=first + seen["engines"])
        world.close()
    record(
        "Random engines under random requests",
        seen["answers"],
        seen["answers"],
        0,
        f"{seen['engines']} engines of two lives, seeds from {first}: {seen['tokens']} tokens computed again "
        f"alone, all with the same log-probability; {seen['cancelled']} answers cancelled, "
        f"{seen['preemptions']} preemptions, {seen['hits']} prompt tokens taken over, {seen['accepted']} "
        "guesses kept; llama.cpp's cells are those of the books after each life",
    )
