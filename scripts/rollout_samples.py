"""How many requests the rollout's sequential test takes, by simulation; prints docs/rollouts.md's table.

python scripts/rollout_samples.py
"""

from __future__ import annotations

import math
import statistics

import numpy as np

from rollout.analysis.limits import Limits
from rollout.analysis.measures import FAR_BEYOND
from rollout.analysis.sequential import Claim, Counts, Pair, RateLimit, log_evidence

RUNS = 200
MOST = 1000
LIMITS = Limits()
FIGURES = 4


def run(rates: tuple[float, float], per_canary: int, seed: int) -> tuple[str, float]:
    """One step: what is decided, and after how many of the canary's requests."""
    generator = np.random.default_rng(seed)
    assert LIMITS.error_rate is not None
    keep = RateLimit(LIMITS.error_rate.ratio, LIMITS.error_rate.plus)
    far = RateLimit(keep.ratio, keep.plus + FAR_BEYOND)
    past, worse, fine = Pair(), 0.0, 0.0
    while past.canary.total < MOST:
        totals = 4 * per_canary, 4
        block = Pair(*(Counts(generator.binomial(n, p), n) for n, p in zip(totals, rates, strict=True)))
        worse += log_evidence(keep, Claim.KEPT, past, block)
        fine += log_evidence(far, Claim.BROKEN, past, block)
        past = past + block
        if past.canary.total < LIMITS.least_requests:
            continue
        if worse >= math.log(FIGURES / LIMITS.roll_back_risk):
            return "rolled back", past.canary.total
        if fine >= -math.log(LIMITS.proceed_risk):
            return "passed", past.canary.total
    return "passed", MOST


def main() -> None:
    print("| errors, stable | errors, canary | stable per canary's | rolled back | median requests |")
    print("| --- | --- | --- | --- | --- |")
    for rates in ((0.0, 0.0), (0.01, 0.01), (0.01, 0.02), (0.0, 0.05), (0.0, 0.1), (0.0, 0.3), (0.0, 1.0)):
        for per_canary in (1, 19):
            results = [run(rates, per_canary, seed) for seed in range(RUNS)]
            share = sum(what == "rolled back" for what, _ in results) / RUNS
            median = statistics.median(count for _, count in results)
            print(f"| {rates[0]:.0%} | {rates[1]:.0%} | {per_canary} | {share:.1%} | {median:.0f} |")


if __name__ == "__main__":
    main()
