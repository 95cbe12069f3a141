"""A prefix folder among processes that die and files that are damaged; in full under `make test-faults`."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import HealthCheck, Phase, example, given, settings

from tests.engine.prefix_neighbours import Life, Round, scripts, survive

EVERYTHING = ((0, 1, 2, 3), (4, 5, 6))


# No shrinking: what processes do at the same time isn't the same twice.
@settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@example([Round((Life(EVERYTHING), Life(EVERYTHING)), (("deleted", 1), ("header lies", 0)))])
@example([Round((Life(EVERYTHING, killed_at_byte=300),), ()), Round((Life(EVERYTHING),), (("a pipe", 2),))])
@given(scripts)
def test_a_folder_shared_with_the_dying_and_the_hostile(script: list[Round]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        survive(Path(folder), script)
