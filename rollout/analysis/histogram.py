"""Prometheus histograms as counts per bucket."""

from __future__ import annotations

import math
import operator
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rollout.analysis.sequential import Counts


@dataclass(frozen=True, slots=True)
class Histogram:
    """Observations by upper bound, taken to be spread evenly within a bucket; the lowest begins at 0.

    Attributes:
        bounds: upper bounds, ascending; the last is infinite.
        cumulative: how many observations were at most so large.
    """

    bounds: tuple[float, ...] = ()
    cumulative: tuple[float, ...] = ()

    @classmethod
    def of(cls, counts: Mapping[float, float]) -> Histogram:
        """From upper bounds and how many observations were at most so large, in any order."""
        bounds = sorted(counts)
        return cls(tuple(bounds), tuple(counts[bound] for bound in bounds))

    @property
    def count(self) -> float:
        """All observations."""
        return self.cumulative[-1] if self.cumulative else 0.0

    def __add__(self, other: Histogram) -> Histogram:
        return self._joined(other, operator.add) if self.bounds else other

    def __sub__(self, other: Histogram) -> Histogram:
        return self._joined(other, operator.sub)

    def _joined(self, other: Histogram, how: Callable[[float, float], float]) -> Histogram:
        if self.bounds == other.bounds:
            return Histogram(self.bounds, tuple(map(how, self.cumulative, other.cumulative)))
        if not other.bounds:
            return self
        bounds = tuple(sorted({*self.bounds, *other.bounds}))
        return Histogram(bounds, tuple(how(self.up_to(b), other.up_to(b)) for b in bounds))

    def up_to(self, value: float) -> float:
        """Observations of at most `value`. Of the infinite bucket's none is taken to be."""
        index = bisect_left(self.bounds, value)
        if index == len(self.bounds):
            return self.count
        bound, reached = self.bounds[index], self.cumulative[index]
        if bound == value:
            return reached
        low, below = (self.bounds[index - 1], self.cumulative[index - 1]) if index else (0.0, 0.0)
        return below if math.isinf(bound) else below + (reached - below) * (value - low) / (bound - low)

    def above(self, value: float) -> Counts:
        """Observations above `value` among all."""
        return Counts(self.count - self.up_to(value), self.count)

    def quantile(self, q: float) -> float | None:
        """The q-quantile as PromQL's `histogram_quantile` gives it; None without observations.

        In the infinite bucket it is the highest finite bound.
        Source: https://prometheus.io/docs/prometheus/latest/querying/functions/
        """
        if not self.count:
            return None
        rank = q * self.count
        low, below = 0.0, 0.0
        for bound, reached in zip(self.bounds, self.cumulative, strict=True):
            if reached >= rank and reached > below:
                return low if math.isinf(bound) else low + (bound - low) * (rank - below) / (reached - below)
            low, below = (low if math.isinf(bound) else bound), reached
        return low


EMPTY = Histogram()
