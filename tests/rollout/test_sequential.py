"""The sequential test's promises: expectations by enumeration, error rates under peeking by simulation."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rollout.analysis.sequential import Claim, Counts, Pair, RateLimit, log_evidence

LIMITS = st.builds(RateLimit, st.sampled_from([0.0, 0.5, 1.0, 1.5, 3.0]), st.floats(0.01, 0.5))
RATES = st.floats(0.0, 1.0)


def counts(most: int) -> st.SearchStrategy[Counts]:
    return st.integers(0, most).flatmap(
        lambda total: st.integers(0, total).map(lambda bad: Counts(bad, total))
    )


def keeps(limit: RateLimit, claim: Claim, stable: float, canary: float) -> bool:
    line = limit.at(stable)
    return canary <= line if claim is Claim.KEPT else canary >= line


def expected_evidence(
    limit: RateLimit, claim: Claim, past: Pair, sizes: tuple[int, int], rates: tuple[float, float]
) -> float:
    """The expectation over all outcomes of a block, computed exactly."""
    total = 0.0
    for bad in product(range(sizes[0] + 1), range(sizes[1] + 1)):
        probability = math.prod(
            math.comb(n, k) * p**k * (1 - p) ** (n - k) for n, k, p in zip(sizes, bad, rates, strict=True)
        )
        block = Pair(Counts(bad[0], sizes[0]), Counts(bad[1], sizes[1]))
        total += probability * math.exp(log_evidence(limit, claim, past, block))
    return total


@pytest.mark.parametrize(("bad", "total"), [(-1.0, 0.0), (-1.0, -1.0), (-2.0, 5.0), (6.0, 5.0), (0.0, 0.0)])
def test_counts_that_a_look_has_caught_in_between_give_a_rate_all_the_same(bad: float, total: float) -> None:
    past = Pair(Counts(bad, total), Counts(bad, total))
    block = Pair(Counts(1.0, 10.0), Counts(9.0, 10.0))
    for claim in Claim:
        assert math.isfinite(log_evidence(RateLimit(1.0, 0.01), claim, past, block))


@settings(max_examples=120, deadline=None)
@given(
    LIMITS,
    st.sampled_from(Claim),
    st.builds(Pair, counts(60), counts(60)),
    st.tuples(st.integers(0, 4), st.integers(0, 4)),
    RATES,
    RATES,
)
def test_no_block_is_expected_to_speak_against_a_true_claim(
    limit: RateLimit, claim: Claim, past: Pair, sizes: tuple[int, int], stable: float, canary: float
) -> None:
    assume(keeps(limit, claim, stable, canary))
    assert expected_evidence(limit, claim, past, sizes, (stable, canary)) <= 1 + 1e-6


@settings(max_examples=50, deadline=None)
@given(LIMITS, st.builds(Pair, counts(60), counts(60)), st.integers(1, 9))
def test_requests_of_the_stable_revision_alone_prove_nothing_about_the_canary(
    limit: RateLimit, past: Pair, total: int
) -> None:
    block = Pair(Counts(total, total), Counts())
    expected = expected_evidence(limit, Claim.KEPT, past, (total, 0), (0.5, 0.0))
    assert expected <= 1 + 1e-6
    assert math.isfinite(log_evidence(limit, Claim.KEPT, past, block))


def ever_rejected(
    limit: RateLimit,
    claim: Claim,
    rates: tuple[float, float],
    sizes: tuple[int, int],
    *,
    alpha: float,
    looks: int,
    seed: int,
) -> tuple[bool, float]:
    """Look after every block of random size; whether one decided, and after how many canary requests."""
    generator = np.random.default_rng(seed)
    past, evidence = Pair(), 0.0
    for _ in range(looks):
        totals = [int(generator.integers(1, 2 * size)) for size in sizes]
        block = Pair(*(Counts(generator.binomial(n, p), n) for n, p in zip(totals, rates, strict=True)))
        evidence += log_evidence(limit, claim, past, block)
        past = past + block
        if evidence >= math.log(1 / alpha):
            return True, past.canary.total
    return False, past.canary.total


@pytest.mark.parametrize("sizes", [(3, 3), (19, 1)])
@pytest.mark.parametrize(
    ("limit", "rates"),
    [
        (RateLimit(1, 0.01), (0.02, 0.03)),
        (RateLimit(1, 0.05), (0.3, 0.35)),
        (RateLimit(1.5, 0.0), (0.2, 0.3)),
        (RateLimit(0, 0.05), (0.5, 0.05)),
    ],
)
def test_a_canary_exactly_at_its_limit_is_rarely_rejected_however_often_one_looks(
    limit: RateLimit, rates: tuple[float, float], sizes: tuple[int, int]
) -> None:
    alpha, runs = 0.1, 200
    found = sum(
        ever_rejected(limit, Claim.KEPT, rates, sizes, alpha=alpha, looks=150, seed=seed)[0]
        for seed in range(runs)
    )
    # Three standard deviations above what is promised.
    assert found <= alpha * runs + 3 * math.sqrt(runs * alpha * (1 - alpha))


def test_peeking_at_a_fixed_sample_test_would_reject_far_too_often() -> None:
    """Shows that the simulation above can fail: the same looks with an ordinary z-test."""
    alpha, runs, rejected = 0.1, 100, 0
    for seed in range(runs):
        generator = np.random.default_rng(seed)
        bad, total = np.zeros(2), np.zeros(2)
        for _ in range(150):
            bad += generator.binomial(3, 0.3, 2)
            total += 3
            rate = bad / total
            error = math.sqrt(max(1e-9, (rate * (1 - rate) / total).sum()))
            if (rate[1] - rate[0]) / error > 1.2816 and total[0] > 20:
                rejected += 1
                break
    assert rejected > 2 * alpha * runs


@pytest.mark.parametrize("sizes", [(4, 4), (19, 1)])
def test_a_bad_canary_is_found_and_a_good_one_passes(sizes: tuple[int, int]) -> None:
    for seed in range(30):
        found, after = ever_rejected(
            RateLimit(1, 0.01), Claim.KEPT, (0.0, 0.3), sizes, alpha=0.0025, looks=300, seed=seed
        )
        assert found
        assert after <= 100
        passed, after = ever_rejected(
            RateLimit(1, 0.06), Claim.BROKEN, (0.0, 0.0), sizes, alpha=0.05, looks=300, seed=seed
        )
        assert passed
        assert after <= 150


def test_a_canary_far_beyond_the_limit_rarely_passes() -> None:
    limit, alpha, runs = RateLimit(1, 0.06), 0.1, 200
    passed = sum(
        ever_rejected(limit, Claim.BROKEN, (0.02, 0.08), (4, 4), alpha=alpha, looks=150, seed=seed)[0]
        for seed in range(runs)
    )
    assert passed <= alpha * runs + 3 * math.sqrt(runs * alpha * (1 - alpha))


def test_dependent_tokens_weighed_as_one_request_keep_the_promise() -> None:
    """All 20 tokens of a request are slow or none: counted as one they err as seldom, counted as 20 often."""
    alpha, runs, tokens = 0.1, 150, 20
    rejected = {1 / tokens: 0, 1.0: 0}
    for weight in rejected:
        for seed in range(runs):
            generator = np.random.default_rng(seed)
            past, evidence = Pair(), 0.0
            for _ in range(100):
                slow = generator.binomial(2, 0.1, 2) * tokens
                block = Pair(*(Counts(k * weight, 2 * tokens * weight) for k in slow))
                evidence += log_evidence(RateLimit(1, 0.01), Claim.KEPT, past, block)
                past = past + block
                if evidence >= math.log(1 / alpha):
                    rejected[weight] += 1
                    break
    assert rejected[1 / tokens] <= alpha * runs + 3 * math.sqrt(runs * alpha * (1 - alpha))
    assert rejected[1.0] > 2 * alpha * runs


def test_an_absolute_limit_does_not_listen_to_the_stable_revision() -> None:
    block = Pair(canary=Counts(9, 10))
    past = Pair(Counts(50, 50), Counts(30, 40))
    assert log_evidence(RateLimit(0, 0.05), Claim.KEPT, past, block) > 5
    assert log_evidence(RateLimit(1, 0.05), Claim.KEPT, past, block) == 0
