"""Quantiles and shares of Prometheus histograms."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.analysis.histogram import EMPTY, Histogram
from rollout.analysis.sequential import Counts

LATENCIES = Histogram.of({0.1: 10.0, 0.5: 90.0, 1.0: 98.0, math.inf: 100.0})


@pytest.mark.parametrize(("q", "expected"), [(0.05, 0.05), (0.5, 0.3), (0.94, 0.75), (0.99, 1.0)])
def test_quantiles_are_interpolated_within_a_bucket(q: float, expected: float) -> None:
    assert LATENCIES.quantile(q) == pytest.approx(expected)


def test_no_observations_have_no_quantile() -> None:
    assert EMPTY.quantile(0.95) is None
    assert Histogram.of({0.1: 0.0, math.inf: 0.0}).quantile(0.95) is None


def test_share_above_a_bound_and_between_bounds() -> None:
    assert LATENCIES.above(0.5) == Counts(10, 100)
    assert LATENCIES.above(0.3).bad == pytest.approx(50)
    assert LATENCIES.above(0.75) == Counts(6, 100)
    assert LATENCIES.above(5) == Counts(2, 100)
    assert LATENCIES.above(math.inf) == Counts(0, 100)


def test_what_came_since() -> None:
    later = Histogram.of({0.1: 15.0, 0.5: 97.0, 1.0: 108.0, math.inf: 110.0})
    assert (later - LATENCIES).cumulative == (5, 7, 10, 10)
    assert later - EMPTY == later
    assert EMPTY + later == later


def test_histograms_with_different_bounds_add_up() -> None:
    other = Histogram.of({0.2: 4.0, math.inf: 5.0})
    both = LATENCIES + other
    assert both.bounds == (0.1, 0.2, 0.5, 1.0, math.inf)
    assert both.cumulative == pytest.approx((12, 34, 94, 102, 105))


@given(st.lists(st.floats(0, 20), min_size=1, max_size=60), st.floats(0.01, 0.99))
def test_the_quantile_is_in_the_bucket_of_the_true_one(values: list[float], q: float) -> None:
    bounds = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, math.inf)
    histogram = Histogram.of({bound: float(sum(v <= bound for v in values)) for bound in bounds})
    true = sorted(values)[max(0, math.ceil(q * len(values)) - 1)]
    quantile = histogram.quantile(q)
    assert quantile is not None
    bound = next(b for b in bounds if b >= true)
    below = max((b for b in (0.0, *bounds) if b < bound), default=0.0)
    assert below <= quantile <= bound


@given(st.lists(st.floats(0, 20), max_size=40), st.floats(0, 40), st.floats(0, 40))
def test_shares_fall_with_the_bound(values: list[float], one: float, other: float) -> None:
    bounds = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, math.inf)
    histogram = Histogram.of({bound: float(sum(v <= bound for v in values)) for bound in bounds})
    low, high = sorted((one, other))
    assert len(values) >= histogram.above(low).bad >= histogram.above(high).bad >= 0
