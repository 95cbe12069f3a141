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
from rollout.quality.judge import QualityJudge


def kinds(judging: Judging) -> list[type]:
    return [type(judge) for judge in judging.judges(client.ApiClient())]


def test_traffic_is_judged_by_default_and_answers_on_request(tmp_path: Path) -> None:
    golden = str(write_golden_set(tmp_path / "golden.jsonl"))
    assert kinds(Judging()) == [TrafficJudge]
    assert kinds(Judging(metrics="http://prometheus:9090", golden=golden)) == [TrafficJudge, QualityJudge]
    assert kinds(Judging(metrics="none", golden=golden)) == [QualityJudge]
    assert kinds(Judging(metrics="none")) == []


def test_rights_on_pods_are_needed_only_to_ask_them(tmp_path: Path) -> None:
    assert Judging().asks_pods
    assert Judging(metrics="none", golden="golden.jsonl").asks_pods
    assert not Judging(metrics="http://prometheus:9090").asks_pods
    assert not Judging(metrics="none").asks_pods


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": "prometheus:9090"}, "http:// or https://"),
        ({"error_rate": "few"}, "the limit 'few' can't be read"),
        ({"queue": "1 hour"}, "the limit '1 hour' can't be read"),
        ({"golden": "/nowhere/golden.jsonl"}, "the golden set /nowhere/golden.jsonl can't be read"),
    ],
)
def test_mistakes_show_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RolloutError, match=message):
        Judging(**options).judges(client.ApiClient())


def test_options_survive_the_record() -> None:
    judging = Judging(metrics="none", agreement=0.5, first_token="off")
    assert Judging(**json.loads(json.dumps(asdict(judging)))) == judging
