"""A sequential test of two rates that may be looked at after every request.

The question is whether a share of bad requests keeps a limit that may depend on the stable revision's share:

    canary's rate <= ratio * stable's rate + plus

The method is the safe test of two Bernoulli streams by Turner, Ly and Grünwald ("Generic E-variables for
exact sequential k-sample tests that allow for optional stopping", 2024, https://arxiv.org/abs/2106.02693)
with the linear null hypotheses of Turner and Grünwald ("Exact anytime-valid confidence intervals for
contingency tables and beyond", 2023, https://arxiv.org/abs/2203.09785). Requests come in blocks of n_s stable
and n_c canary ones. Before a block is looked at, earlier blocks give an alternative (a, b), and (x, y) is the
point of the null hypothesis nearest to it, in Kullback-Leibler divergence weighted by n_s and n_c. The
block's evidence is the likelihood ratio of the two points. If the limit is kept, its expectation is at most 1
whatever the true rates are, so the product over the blocks ever exceeds 1/alpha with probability at most
alpha (Ville, 1939).

Why at most 1: with c = (a - x) / (x (1 - x)), one stable request multiplies the expectation by
1 + (p - x) c <= exp((p - x) c), and likewise for the canary. The sum of these exponents over the block is the
directional derivative of the divergence at its minimum over a convex set, negated; hence at most 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

# Rates are kept this far from 0 and 1, where the logarithms end.
_EDGE = 1e-9
_BISECTIONS = 40


@dataclass(frozen=True, slots=True)
class Counts:
    """How many observations there were, and how many of them were bad; may be fractions."""

    bad: float = 0.0
    total: float = 0.0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.bad + other.bad, self.total + other.total)

    @property
    def rate(self) -> float | None:
        """The share of bad ones; None without observations."""
        return self.bad / self.total if self.total else None

    @property
    def estimate(self) -> float:
        """The rate with half a bad and half a good observation added (Krichevsky and Trofimov, 1981).

        Within 0 and 1 also where a look that caught a request between two metrics has made a count negative.
        """
        total = max(0.0, self.total)
        return (min(total, max(0.0, self.bad)) + 0.5) / (total + 1)


@dataclass(frozen=True, slots=True)
class Pair:
    """The counts of both revisions."""

    stable: Counts = Counts()
    canary: Counts = Counts()

    def __add__(self, other: Pair) -> Pair:
        return Pair(self.stable + other.stable, self.canary + other.canary)


@dataclass(frozen=True, slots=True)
class RateLimit:
    """The line `ratio * stable's rate + plus`; `ratio` 0 makes it absolute."""

    ratio: float
    plus: float

    def at(self, stable_rate: float) -> float:
        """The limit for the canary's rate."""
        return self.ratio * stable_rate + self.plus


class Claim(Enum):
    """What evidence is collected against."""

    KEPT = "the canary's rate is at most the limit"
    BROKEN = "the canary's rate is at least the limit"


def log_evidence(limit: RateLimit, claim: Claim, past: Pair, block: Pair) -> float:
    """Natural logarithm of the evidence that a block gives against a claim; above 0 speaks against it.

    Args:
        limit: the line between the two claims.
        claim: the null hypothesis.
        past: all observations before the block.
        block: new observations, whose number was not chosen by how they turned out.
    """
    alternative = past.stable.estimate, past.canary.estimate
    nearest = _nearest(limit, claim, alternative, block)
    if nearest is None:
        return 0.0
    return _log_ratio(block.stable, alternative[0], nearest[0]) + _log_ratio(
        block.canary, alternative[1], nearest[1]
    )


def _nearest(
    limit: RateLimit, claim: Claim, alternative: tuple[float, float], block: Pair
) -> tuple[float, float] | None:
    """The claim's point nearest to the alternative; None where that is the alternative itself."""
    a, b = alternative
    line = limit.at(a)
    if b <= line if claim is Claim.KEPT else b >= line:
        return None
    if limit.ratio == 0:
        return a, _inside(limit.plus)
    # The nearest point lies on the line, over these x; along it the divergence is convex.
    low = max(_EDGE, (_EDGE - limit.plus) / limit.ratio)
    high = min(1 - _EDGE, (1 - _EDGE - limit.plus) / limit.ratio)
    if low >= high:  # the line passes over every possible rate
        return None if claim is Claim.KEPT else (a, 1 - _EDGE)
    for _ in range(_BISECTIONS):
        x = (low + high) / 2
        y = limit.at(x)
        slope = block.stable.total * (x - a) / (x * (1 - x))
        slope += limit.ratio * block.canary.total * (y - b) / (y * (1 - y))
        low, high = (low, x) if slope > 0 else (x, high)
    x = (low + high) / 2
    return x, _inside(limit.at(x))


def _log_ratio(counts: Counts, alternative: float, null: float) -> float:
    good = counts.total - counts.bad
    return counts.bad * math.log(alternative / null) + good * math.log((1 - alternative) / (1 - null))


def _inside(rate: float) -> float:
    return min(1 - _EDGE, max(_EDGE, rate))
