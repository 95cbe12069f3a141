"""The arithmetic on results, and their JSON."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from benchmarks.measure import Goal, turns
from benchmarks.results import LLAMA_SERVER, OURS, LoadResult, Measurement, RequestRecord, Run, percentile


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


def _run(*figures: tuple[str, int, float]) -> Run:
    measurements = [
        Measurement("distinct", "8 clients", server, round_, {"tokens_per_second": value})
        for server, round_, value in figures
    ]
    return Run("today", "python -m benchmarks", {}, {}, {}, measurements)


def test_ratio_is_of_the_medians_over_rounds() -> None:
    run = _run((OURS, 0, 10), (OURS, 1, 90), (OURS, 2, 30), (LLAMA_SERVER, 0, 20), (LLAMA_SERVER, 1, 60))
    assert run.ratio("distinct", "8 clients", "tokens_per_second") == 30 / 40


def test_no_ratio_without_both_servers() -> None:
    run = _run((OURS, 0, 10))
    assert run.ratio("distinct", "8 clients", "tokens_per_second") is None
    assert run.ratio("distinct", "16 clients", "tokens_per_second") is None


def test_goals_have_a_direction() -> None:
    assert Goal(1.0, at_least=True).is_met(1.0)
    assert not Goal(1.0, at_least=True).is_met(0.99)
    assert Goal(0.5, at_least=False).is_met(0.5)
    assert not Goal(0.5, at_least=False).is_met(0.51)


def test_servers_take_turns_in_alternating_order() -> None:
    assert list(turns(3, 2)) == [(0, 0), (0, 1), (1, 1), (1, 0), (2, 0), (2, 1)]


def test_a_run_survives_json(tmp_path: Path) -> None:
    record = RequestRecord(1.0, (0.1, 0.2), 0.3, prompt_tokens=5, completion_tokens=2)
    measurement = Measurement("distinct", "1 client", OURS, 0, {"x": 1.5}, records=(record,), errors=("e",))
    run = Run("today", "python -m benchmarks", {"CPU": "one"}, {"Python": "3.11"}, {}, [measurement])
    run.save(tmp_path / "new folder" / "run.json")
    loaded = Run.load(tmp_path / "new folder" / "run.json")
    assert list(loaded.measurements) == [measurement]
    assert (loaded.machine, loaded.versions) == (run.machine, run.versions)


def test_a_file_that_holds_no_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"date": 3}')
    with pytest.raises(ValidationError):
        Run.load(tmp_path / "run.json")
