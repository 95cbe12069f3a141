"""How much more a rate varies than independent requests would make it.

Requests of one busy period, one burst or one hiccup fare alike, so that a hundred of them tell less than a
hundred independent ones. By how much less is estimated from how much the rates of stretches of time differ
(the design effect of survey statistics; batch means in the analysis of simulations).
"""

from __future__ import annotations

import math
from array import array

import numpy as np
from numpy.typing import NDArray

from rollout.analysis.sequential import Claim, Counts, Pair, RateLimit

# Fewer stretches tell nothing about how much they differ.
LEAST_BLOCKS = 8
_LEAST_GROUPS = 6
# A spread that was estimated from n stretches is itself off by about sqrt(2 / n). Found by simulation: what
# keeps false alarms as rare as is promised, which is rarer than that a bad canary passes.
_DOUBT = {Claim.KEPT: 6.0, Claim.BROKEN: 2.0}

Floats = NDArray[np.float64]


class Blocks:
    """What was counted in stretches of time, the oldest first."""

    def __init__(self) -> None:
        self._rows = array("d")

    def __len__(self) -> int:
        return len(self._rows) // 4

    def append(self, block: Pair) -> None:
        """Add the newest."""
        self._rows.extend((block.canary.bad, block.canary.total, block.stable.bad, block.stable.total))

    def merged(self, size: int) -> tuple[Floats, Floats]:
        """Of both revisions, bad ones and all in stretches of `size` blocks; of shape (stretches, 2)."""
        groups = len(self) // size
        rows = np.frombuffer(self._rows).reshape(-1, 4)
        # What is left over is the oldest.
        found = rows[len(self) - groups * size :].reshape(groups, size, 4).sum(axis=1)
        return found[:, :2], found[:, 2:]


def design_effect(blocks: Blocks, line: RateLimit, claim: Claim) -> float:
    """By what the evidence of requests has to be divided; at least 1.

    Neighbouring blocks are merged to longer and longer stretches, as long as there are enough of them, since
    dependence may outlast a block. The largest of the estimates counts.

    Args:
        line: the limit that is in question; with ratio 0 the stable revision's part isn't looked at.
        claim: what the evidence is against.
    """
    worst, size = 1.0, 1
    while (groups := len(blocks) // size) >= _LEAST_GROUPS:
        worst = max(worst, _spread(*blocks.merged(size), line) * (1 + _DOUBT[claim] / groups))
        size *= 2
    return worst


def _spread(canary: Floats, stable: Floats, line: RateLimit) -> float:
    """Mean square of the groups' differences, each in units of what independence explains.

    The canary's part of that is taken at its own rate or at the limit, whichever varies more: no bad request
    so far doesn't mean that there is nothing to vary.
    """
    theirs = _rate(stable) if line.ratio else 0.0
    ours, limit = _rate(canary), min(1.0, line.at(theirs))
    difference = canary[:, 0] / canary[:, 1]
    expected = max(ours * (1 - ours), limit * (1 - limit)) / canary[:, 1]
    if line.ratio:
        difference = difference - line.ratio * stable[:, 0] / stable[:, 1]
        expected = expected + line.ratio**2 * theirs * (1 - theirs) / stable[:, 1]
    if not (expected > 0).all():
        return 1.0
    weights = 1 / expected
    centre = (weights * difference).sum() / weights.sum()
    return float(((difference - centre) ** 2 * weights).sum() / (len(difference) - 1))


def _rate(groups: Floats) -> float:
    return float(groups[:, 0].sum() / groups[:, 1].sum())


def bounds(counts: Counts, effect: float, z: float) -> tuple[float, float]:
    """Between what a rate lies that was seen in so many requests (Wilson, 1927).

    Args:
        effect: the design effect.
        z: of the normal distribution; 3.3 leaves 1 in 2,000 on either side.
    """
    n = counts.total / effect
    rate = min(1.0, max(0.0, counts.bad / counts.total))
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(rate * (1 - rate) / n + (z / (2 * n)) ** 2) / (1 + z * z / n)
    return max(0.0, centre - half), min(1.0, centre + half)
