"""A rollout with a golden set, started on one machine and resumed on another, by commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cluster_front import Seen
from pod_api import PodApi
from rollout_bench import NAME, NEW, Bench
from server_process import Server

PROMPT = {"prompt": "What is the capital of France?", "max_tokens": 4}


def answered_by(bench: Bench, server: Server) -> None:
    """Let one server stand for the pods of both revisions."""
    pods = PodApi(namespace=bench.namespace)

    def before(seen: Seen) -> tuple[int, bytes] | None:
        if not seen.path.startswith(f"/api/v1/namespaces/{bench.namespace}/pods"):
            return None
        for workload in list(bench.world.workloads):
            pods.pods[f"app=isvc.{workload}"] = {f"{workload}-7d9c5b8f4d-abcde": server.http_url}
        body = b"" if seen.body is None else json.dumps({**seen.body, "model": server.model_name}).encode()
        return pods.answer(seen.method, seen.path, {}, body)

    bench.front.before = before


def pause_once_it_has_traffic(bench: Bench) -> None:
    """Somebody does, by another command."""
    paused: list[bool] = []

    def after(seen: Seen, status: int) -> None:
        if not paused and seen.writes_service and bench.percents()[-1:] == [50]:
            paused.append(True)
            bench.rollout().pause("look first")

    bench.front.after = after


def test_the_golden_set_and_the_reports_are_where_the_resuming_machine_has_them(
    bench: Bench, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for machine in (first, second):
        machine.mkdir()
        (machine / "golden.jsonl").write_text(json.dumps(PROMPT) + "\n")
    (second / "other.jsonl").write_text(json.dumps({**PROMPT, "prompt": "And of Italy?"}) + "\n")
    bench.create("Standard")
    answered_by(bench, server)
    pause_once_it_has_traffic(bench)
    golden = ("--golden", str(first / "golden.jsonl"), "--reports", str(first / "reports"))
    times = ("--metrics", "none", "--interval", "0s", "--steps", "50,100")
    status, output, errors = bench.run("start", NAME, "--model", NEW, *times, *golden)
    assert status == 4, output + errors
    assert [report.name for report in (first / "reports").iterdir()] == ["chat-chat-r1-predictor-0.html"]
    bench.front.after = lambda _, __: None

    (first / "golden.jsonl").unlink()
    resume = ("start", NAME, "--resume")
    for options, expected in (
        ((), "isn't on this machine; say where it is with --golden FILE"),
        (("--golden", str(second / "other.jsonl")), "isn't the golden set that the rollout was started with"),
        (
            ("--golden", str(second / "golden.jsonl"), "--reports", str(second / "golden.jsonl")),
            "no report can be written to",
        ),
    ):
        status, _, errors = bench.run(*resume, *options)
        assert status == 1
        assert expected in errors
        assert bench.percents()[-1] == 50

    monkeypatch.chdir(second)
    there = ("--golden", "golden.jsonl", "--reports", "rollout-reports")
    status, output, errors = bench.run(*resume, *there)
    assert status == 0, errors
    assert "promoted" in output.splitlines()[-1]
    assert [report.name for report in (second / "rollout-reports").iterdir()] == [
        "chat-chat-r1-predictor-50.html"
    ]
    assert len(list((first / "reports").iterdir())) == 1
