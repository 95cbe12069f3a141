"""Prefix folders among processes that die and files that are damaged, at random, for minutes."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.engine.prefix_neighbours import Round, scripts, survive

SECONDS = 120
pytestmark = [pytest.mark.faults, pytest.mark.timeout(4 * SECONDS)]


class TimeIsUp(Exception):
    """Ends the search; hypothesis would go on drawing scripts that nobody plays."""


def test_folders_shared_with_the_dying_and_the_hostile(record: Any) -> None:
    seen: Counter[str] = Counter()
    ends = time.monotonic() + SECONDS

    @settings(
        max_examples=100_000,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(scripts)
    def check(script: list[Round]) -> None:
        if time.monotonic() > ends:
            raise TimeIsUp
        with tempfile.TemporaryDirectory() as folder:
            seen.update(survive(Path(folder), script) | {"folders": 1})

    with suppress(TimeIsUp):
        check()
    record(
        "Prefix folders shared with dying processes",
        seen["folders"],
        seen["folders"],
        0,
        f"{seen['processes']} processes, of which {seen['killed']} were killed in the middle of their work; "
        f"{seen['damages']} files deleted, damaged or replaced meanwhile; no state under others' tokens, no "
        "file left unfinished, and every folder took and gave back new prefixes",
    )
