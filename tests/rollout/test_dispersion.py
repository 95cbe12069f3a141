"""How much less dependent requests tell than independent ones."""

from __future__ import annotations

import numpy as np
import pytest

from rollout.analysis.dispersion import Blocks, bounds, design_effect
from rollout.analysis.sequential import Claim, Counts, Pair, RateLimit

LINE = RateLimit(1.0, 0.0)


def blocks(clump: int, seed: int, count: int = 200, rate: float = 0.1) -> Blocks:
    """Blocks of 20 requests a side, of which `clump` always fare alike, over several blocks if need be."""
    random = np.random.default_rng(seed)
    found = Blocks()
    sides = [np.repeat(random.random(20 * count // clump + 1) < rate, clump)[: 20 * count] for _ in range(2)]
    bad = [side.reshape(count, 20).sum(axis=1) for side in sides]
    for stable, canary in zip(*bad, strict=True):
        found.append(Pair(Counts(float(stable), 20.0), Counts(float(canary), 20.0)))
    return found


@pytest.mark.parametrize("claim", Claim)
def test_independent_requests_are_worth_nearly_all(claim: Claim) -> None:
    effects = [design_effect(blocks(1, seed), LINE, claim) for seed in range(20)]
    assert np.median(effects) < 2.5
    assert min(effects) >= 1


@pytest.mark.parametrize("clump", [5, 20, 80])
def test_clumps_are_found_whether_shorter_or_longer_than_a_block(clump: int) -> None:
    effects = [design_effect(blocks(clump, seed), LINE, Claim.BROKEN) for seed in range(20)]
    assert np.median(effects) > 0.7 * clump


def test_false_alarms_need_a_larger_effect_than_passes() -> None:
    found = blocks(20, 1)
    assert design_effect(found, LINE, Claim.KEPT) > design_effect(found, LINE, Claim.BROKEN)


def test_what_slows_both_down_at_once_is_no_dispersion() -> None:
    """Bad moments of both revisions together leave their difference alone."""
    random = np.random.default_rng(2)
    together, apart = Blocks(), Blocks()
    for _ in range(200):
        rates = np.where(random.random(2) < 0.2, 0.5, 0.05)
        for found, (stable, canary) in ((together, (rates[0], rates[0])), (apart, rates)):
            counts = random.binomial(20, (stable, canary))
            found.append(Pair(Counts(float(counts[0]), 20.0), Counts(float(counts[1]), 20.0)))
    assert design_effect(together, LINE, Claim.BROKEN) < 2
    assert design_effect(apart, LINE, Claim.BROKEN) > 3


def test_no_bad_request_so_far_is_no_certainty() -> None:
    """Then the effect is that of the limit, and not infinite."""
    found = Blocks()
    random = np.random.default_rng(3)
    for bad in random.binomial(20, 0.05, 100):
        found.append(Pair(Counts(float(bad), 20.0), Counts(0.0, 2.0)))
    assert design_effect(found, LINE, Claim.BROKEN) < 1.5


def test_few_blocks_say_nothing() -> None:
    assert design_effect(blocks(20, 1, count=5), LINE, Claim.KEPT) == 1


@pytest.mark.parametrize(
    ("counts", "effect"), [(Counts(5, 100), 1.0), (Counts(5, 100), 4.0), (Counts(0, 50), 1.0)]
)
def test_bounds_hold_the_rate_as_often_as_they_say(counts: Counts, effect: float) -> None:
    low, high = bounds(counts, effect, 1.96)
    assert low <= counts.bad / counts.total <= high
    narrow = bounds(Counts(20 * counts.bad, 20 * counts.total), effect, 1.96)
    assert high - low > narrow[1] - narrow[0]
    assert bounds(Counts(-1, 50), effect, 1.96)[0] == 0.0  # caught by a look between two metrics
    random = np.random.default_rng(4)
    held = 0
    for bad in random.binomial(400, 0.05, 400):
        low, high = bounds(Counts(float(bad), 400.0), 1.0, 1.96)
        held += low <= 0.05 <= high
    assert held >= 370
