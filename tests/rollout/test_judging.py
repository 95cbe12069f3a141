"""From options to judges."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from golden_set import write_golden_set
from kubernetes import client

from rollout.analysis.judge import TrafficJudge
from rollout.errors import RolloutError
from rollout.judging import Judging
from rollout.plan import Plan
from rollout.quality.judge import QualityJudge


def kinds(judging: Judging) -> list[type]:
    return [type(judge) for judge in judging.judges(client.ApiClient(), Plan())]


def test_traffic_is_judged_by_default_and_answers_on_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    golden = str(write_golden_set(tmp_path / "golden.jsonl"))
    assert kinds(Judging()) == [TrafficJudge]
    assert kinds(Judging(metrics="http://prometheus:9090", golden=golden)) == [TrafficJudge, QualityJudge]
    assert kinds(Judging(metrics="none", golden=golden)) == [QualityJudge]
    assert kinds(Judging(metrics="none")) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": "prometheus:9090"}, "http:// or https://"),
        ({"error_rate": "few"}, "the limit 'few' can't be read"),
        ({"queue": "1 hour"}, "the limit '1 hour' can't be read"),
        ({"first_token": "5%"}, "the limit '5%' can't be read"),
        ({"error_rate": "2"}, "lets every request fail"),
        ({"golden": "/nowhere/golden.jsonl"}, "the golden set /nowhere/golden.jsonl can't be read"),
    ],
)
def test_mistakes_show_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RolloutError, match=message):
        Judging(**options).judges(client.ApiClient(), Plan())


def test_options_survive_the_record() -> None:
    judging = Judging(metrics="none", agreement=0.5, first_token="off")
    assert Judging(**json.loads(json.dumps(asdict(judging)))) == judging


@pytest.mark.parametrize(
    ("judging", "steps", "notice"),
    [
        (Judging(metrics="none"), (5, 100), "nothing is tested"),
        (
            Judging(error_rate="off", first_token="off", inter_token="off", queue="off", deaths="off"),
            (5, 100),
            "nothing is tested",
        ),
        (Judging(), (100,), "begin with a smaller step"),
        (Judging(), (5, 100), None),
        (Judging(error_rate="2%"), (100,), None),
        (Judging(metrics="none", golden="golden.jsonl"), (5, 100), None),
    ],
)
def test_what_is_not_tested_is_said_before_the_start(
    judging: Judging, steps: tuple[int, ...], notice: str | None
) -> None:
    found = judging.notices(Plan(steps))
    assert len(found) == (notice is not None)
    assert notice is None or notice in found[0]


def test_a_golden_set_is_known_again_on_another_machine(tmp_path: Path) -> None:
    first, second, other = (tmp_path / name for name in ("first.jsonl", "second.jsonl", "other.jsonl"))
    write_golden_set(first)
    second.write_bytes(first.read_bytes())
    other.write_text('{"prompt": "Hello?"}\n')
    signed = Judging(golden=str(first)).signed()
    assert signed.here(None, None) == signed
    first.unlink()
    with pytest.raises(RolloutError, match=r"isn't on this machine.*--golden FILE"):
        signed.here(None, None)
    with pytest.raises(RolloutError, match="isn't the golden set that the rollout was started with"):
        signed.here(str(other), None)
    here = signed.here(str(second), str(tmp_path / "reports"))
    assert (here.golden, here.reports) == (str(second), str(tmp_path / "reports"))
    with pytest.raises(RolloutError, match="without a golden set"):
        Judging().here(str(second), None)


def test_a_folder_for_reports_is_tried_before_the_start(tmp_path: Path) -> None:
    golden = write_golden_set(tmp_path / "golden.jsonl")
    taken = tmp_path / "taken"
    taken.write_text("a file")
    judging = Judging(metrics="none", golden=str(golden), reports=str(taken))
    with pytest.raises(RolloutError, match=r"no report can be written.*--reports"):
        judging.judges(client.ApiClient(), Plan())
    fine = Judging(metrics="none", golden=str(golden), reports=str(tmp_path / "deep" / "reports"))
    assert fine.judges(client.ApiClient(), Plan())
    assert list((tmp_path / "deep" / "reports").iterdir()) == []
