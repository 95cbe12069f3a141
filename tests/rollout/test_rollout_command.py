"""`kserve-llamacpp rollout`: as a process, as users and pipelines run it, where that makes a difference."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
from polling import wait_until
from rollout_bench import FIRST_KNATIVE, FIRST_STANDARD, NAME, NEW, OLD, UNJUDGED, Bench

pytestmark = pytest.mark.timeout(1800)

START = ("start", NAME, "--model", NEW, *UNJUDGED)


@FIRST_KNATIVE
def test_start_promotes_and_prints_its_progress(bench: Bench, mode: str) -> None:
    bench.create(mode)
    status, output, errors = bench.run_process(*START)
    assert status == 0, errors
    for percent in (0, 5, 25, 50, 100):
        assert f"chat: progressing at {percent}%" in output
    assert f"chat: {NEW} promoted" in output.splitlines()[-1]
    assert bench.spec()["predictor"]["model"]["storageUri"] == NEW


@FIRST_STANDARD
def test_bad_canary_ends_with_status_3_and_the_reason(bench: Bench, mode: str) -> None:
    bench.create(mode)
    status, output, _ = bench.run("start", NAME, "--model", "hf://owner/broken", *UNJUDGED)
    assert status == 3
    assert "rolled back" in output
    assert "not a GGUF file" in output
    assert bench.spec()["predictor"]["model"]["storageUri"] == OLD


@FIRST_STANDARD
def test_dry_run_prints_the_patch_and_changes_nothing(bench: Bench, mode: str) -> None:
    bench.create(mode)
    before = bench.get()
    status, output, errors = bench.run(*START, "--dry-run")
    assert status == 0, errors
    patch = json.loads(output)
    assert patch["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]
    assert NEW in json.dumps(patch["spec"])
    assert f"+  storageUri: {NEW}" in errors
    assert bench.get() == before
    assert not [seen for seen in bench.front.seen if seen.writes_service]


def test_every_other_command(bench: Bench) -> None:
    bench.create("Standard")
    bench.pause_at(25)
    status, output, errors = bench.run("status", NAME)
    assert status == 0, errors
    for expected in (NEW, OLD, "25%", "75%", "no verdict", "canary, ready"):
        assert expected in output
    status, output, _ = bench.run("step", NAME)
    assert status == 0
    wait_until(lambda: sorted(bench.world.traffic.values()) == [50, 50])
    status, output, _ = bench.run("pause", NAME, "--reason", "lunch")
    assert status == 0
    assert f"storageUri: {NEW}" in bench.run("diff", NAME)[1]
    status, output, _ = bench.run("rollback", NAME, "--reason", "looks odd")
    assert (status, "looks odd" in output) == (0, True)
    assert bench.run("rollback", NAME)[0] == 0
    status, output, _ = bench.run("history", NAME)
    assert status == 0
    for expected in ("tester", "start", "step", "pause", "no verdict", "rolled back", "looks odd"):
        assert expected in output
    status, _, errors = bench.run("promote", NAME)
    assert status == 1
    assert "is over: rolled back" in errors
    assert bench.run("status", NAME, "--watch")[0] == 0


def test_interrupted_watching_says_nothing_of_the_rollout(bench: Bench) -> None:
    bench.create("Standard")
    bench.pause_at(25)
    looks = len(bench.front.seen)
    process = bench.command("status", NAME, "--watch")
    wait_until(lambda: len(bench.front.seen) > looks + 1)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=600)
    assert process.returncode == 130
    assert "progressing at 25%" in output
    assert errors == ""


@FIRST_KNATIVE
def test_promote(bench: Bench, mode: str) -> None:
    bench.create(mode)
    bench.pause_at(25)
    status, output, _ = bench.run("promote", NAME)
    assert status == 0
    assert "promoted" in output
    assert bench.spec()["predictor"]["model"]["storageUri"] == NEW


@pytest.mark.parametrize(("mode", "number"), [("Standard", signal.SIGINT), ("Knative", signal.SIGTERM)])
def test_interrupt_says_how_to_go_on(bench: Bench, mode: str, number: signal.Signals) -> None:
    bench.create(mode)
    process = bench.command("start", NAME, "--model", NEW, "--metrics", "none", "--interval", "10m")
    wait_until(lambda: bench.percents()[-1:] == [5])
    wait_until(lambda: 5 in bench.world.traffic.values())
    process.send_signal(number)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 130
    assert f"rollout start {NAME} --resume" in errors
    assert f"rollout rollback {NAME}" in errors
    assert "Traceback" not in errors
    assert sorted(bench.world.traffic.values()) == [5, 95]
    bench.edit_record(interval_s=0.0)
    status, output, errors = bench.run("start", NAME, "--resume")
    assert status == 0, errors
    assert "promoted" in output
    assert bench.percents() == [0, 5, 25, 50, 100]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--model", NEW, "--steps", "5,3"), "ascending"),
        (("--model", NEW, "--steps", "a"), "whole percentages"),
        (("--model", NEW, "--interval", "soon"), "duration 'soon'"),
        (("--model", NEW, "--interval", "2h"), "longer than the time"),
        ((), "--model"),
        (("--model", NEW, "--resume"), "--model"),
        (("--resume",), "no rollout yet"),
        (("--model", "file.gguf"), "no model reference"),
    ],
)
def test_mistakes_get_a_message(bench: Bench, options: tuple[str, ...], message: str) -> None:
    bench.create("Knative")
    status, _, errors = bench.run("start", NAME, *options)
    assert status == 1
    assert message in errors
    assert "Traceback" not in errors


@pytest.mark.slow
def test_unreachable_cluster_gets_a_message(bench: Bench) -> None:
    bench.kubeconfig.write_text(bench.kubeconfig.read_text().replace(bench.front.url, "http://127.0.0.1:1"))
    status, _, errors = bench.run("status", NAME)
    assert status == 1
    assert "doesn't answer" in errors
    assert "Traceback" not in errors


def test_missing_extra_is_named() -> None:
    """The Kubernetes client comes with the extra; without it nothing else of the command suffers."""
    code = (
        "import sys; sys.modules['kubernetes'] = None\n"
        "import importlib.util as util\n"
        "find = util.find_spec\n"
        "util.find_spec = lambda name, *rest: None if name == 'kubernetes' else find(name, *rest)\n"
        "from predictor.cli import main\n"
        "sys.argv = ['kserve-llamacpp', *sys.argv[1:]]\n"
        "main()\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, "rollout", "status", "chat"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 1
    assert "kserve-llamacpp[rollout]" in run.stderr
    assert "Traceback" not in run.stderr


def test_serving_imports_nothing_of_rollouts() -> None:
    modules = "import predictor.cli, predictor.serving.server, sys"
    code = f"{modules}; print([m for m in sys.modules if 'rollout' in m])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_help_lists_the_commands() -> None:
    environment = os.environ | {"COLUMNS": "200"}
    command = [sys.executable, "-m", "predictor.cli", "rollout", "--help"]
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    for name in ("start", "status", "step", "pause", "promote", "rollback", "history", "diff"):
        assert f" {name} " in run.stdout
