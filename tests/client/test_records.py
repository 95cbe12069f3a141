"""The arithmetic on a load's records."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictor.client.records import LoadResult, RequestRecord, percentile


def test_percentile_interpolates_between_neighbours() -> None:
    assert percentile([4, 1, 3, 2], 50) == 2.5
    assert percentile(range(101), 95) == 95
    assert percentile([7], 99) == 7


def test_percentile_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing was measured"):
        percentile([], 50)


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0, 100))
def test_percentile_lies_within_the_values(values: list[float], percent: float) -> None:
    assert min(values) <= percentile(values, percent) <= max(values) or np.isclose(min(values), max(values))


def test_latencies_of_a_request() -> None:
    record = RequestRecord(started=100.0, token_times=(0.5, 0.75, 1.75), duration=2.0)
    assert record.time_to_first_token == 0.5
    assert record.inter_token_latencies == (0.25, 1.0)


def test_latencies_during_a_window_are_those_that_overlap_it() -> None:
    record = RequestRecord(started=100.0, token_times=(1.0, 2.0, 4.0, 8.0, 16.0), duration=17.0)
    assert record.latencies_during(103.0, 105.0) == (2.0, 4.0)
    assert record.latencies_during(104.5, 104.6) == (4.0,)
    assert record.latencies_during(117.0, 118.0) == ()


def test_throughput_counts_usage_over_the_wall_time_of_the_whole_load() -> None:
    early = RequestRecord(started=10.0, token_times=(0.1,), duration=2.0, completion_tokens=30)
    late = RequestRecord(started=11.0, token_times=(0.3,), duration=4.0, completion_tokens=20)
    failed = RequestRecord(started=11.0, token_times=(), duration=0.1, error="HTTP 503")
    result = LoadResult((early, late, failed), client_cpu_seconds=0.0)
    assert result.wall_seconds == 5.0
    assert result.output_tokens_per_second == 10.0
    assert result.times_to_first_token == (0.1, 0.3)
    assert result.errors == ("HTTP 503",)
