"""Finds llama-server's best flags for a scenario, in the same run as the comparison that they are for."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace

from benchmarks.measure import all_running
from benchmarks.results import Trial
from benchmarks.scenarios import ServingScenario
from benchmarks.servers import LlamaServer, ServerError
from predictor.client.load import LoadGenerator

# No round of the comparison has the prompts of this one.
_ROUND = -1


async def tune(
    scenario: ServingScenario, server: LlamaServer, tell: Callable[[str], None]
) -> tuple[ServingScenario, tuple[Trial, ...]]:
    """Try the scenario's variants of llama-server one after another.

    Args:
        tell: is called with a line about each.

    Returns:
        The scenario with the best variant's flags, and what was tried; without a tuning, or where no variant
        could be measured, the scenario as it is.
    """
    if scenario.tuning is None:
        return scenario, ()
    found = []
    for flags in scenario.tuning.variants:
        value = await _measured(scenario, server, flags)
        found.append((flags, value))
        tell(f"llama-server {flags or 'without flags'}: {scenario.tuning.metric} {value}")
    known = [(value, flags) for flags, value in found if value is not None]
    if not known:
        return scenario, ()
    _, taken = (max if scenario.tuning.more_is_better else min)(known, key=lambda pair: pair[0])
    trials = tuple(Trial(flags, value, flags == taken) for flags, value in found)
    return _with_flags(scenario, shlex.split(taken)), trials


async def _measured(scenario: ServingScenario, server: LlamaServer, flags: str) -> float | None:
    """The figure that decides; None where this llama-server knows no such flags or requests failed."""
    tuning = scenario.tuning
    assert tuning is not None
    setup = _with_flags(scenario, shlex.split(flags)).setup
    try:
        async with (
            all_running([server], setup) as (instance,),
            LoadGenerator(instance.base_url) as generator,
        ):
            outcome = await scenario.work(instance, generator, tuning.point, _ROUND)
    except ServerError:
        return None
    return None if outcome.errors else outcome.metrics.get(tuning.metric)


def _with_flags(scenario: ServingScenario, flags: Sequence[str]) -> ServingScenario:
    return replace(scenario, setup=replace(scenario.setup, llama_server_flags=tuple(flags)))
