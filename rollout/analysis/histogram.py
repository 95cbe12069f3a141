"""Prometheus histograms as counts per bucket."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from rollout.analysis.sequential import Counts


@dataclass(frozen=True, slots=True)
class Histogram:
    """Observations by upper bound.

    Attributes:
        cumulative: upper bound to how many observations were at most so large, in order of the bounds; the
            last bound is infinite.
    """

    cumulative: Mapping[float, float]

    @property
    def count(self) -> float:
        """All observations."""
        return self.cumulative.get(math.inf, 0.0)

    def __add__(self, other: Histogram) -> Histogram:
        bounds = sorted({*self.cumulative, *other.cumulative})
        return Histogram({bound: self.up_to(bound) + other.up_to(bound) for bound in bounds})

    def since(self, earlier: Histogram) -> Histogram:
        """The observations that came after `earlier`; all of them where the process restarted in between."""
        if self.count < earlier.count:
            return self
        return Histogram({b: max(0.0, n - earlier.up_to(b)) for b, n in self.cumulative.items()})

    def up_to(self, bound: float) -> float:
        """Observations known to be at most `bound`."""
        return max((n for b, n in self.cumulative.items() if b <= bound), default=0.0)

    def above(self, bound: float) -> Counts:
        """Observations above `bound`, or above the next bound where it is none of the histogram's."""
        reached = next((n for b, n in self.cumulative.items() if b >= bound), self.count)
        return Counts(self.count - reached, self.count)

    def next_bound(self, value: float) -> float:
        """The smallest upper bound that is at least `value`."""
        return next((bound for bound in self.cumulative if bound >= value), math.inf)

    def quantile(self, q: float) -> float | None:
        """The q-quantile as PromQL's `histogram_quantile` gives it; None without observations.

        Values are taken to be spread evenly within a bucket; the lowest begins at 0. In the infinite bucket
        it is the highest finite bound. Source: https://prometheus.io/docs/prometheus/latest/querying/functions/
        """
        if not self.count:
            return None
        rank = q * self.count
        low, below = 0.0, 0.0
        for bound, reached in self.cumulative.items():
            if reached >= rank and reached > below:
                return low if math.isinf(bound) else low + (bound - low) * (rank - below) / (reached - below)
            low, below = (low if math.isinf(bound) else bound), reached
        return low


EMPTY = Histogram({})
