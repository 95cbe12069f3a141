"""The arithmetic on results, and their JSON."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from benchmarks.measure import Goal, turns
from benchmarks.results import LLAMA_SERVER, OURS, Measurement, Run
from predictor.client.records import RequestRecord


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
