"""manifests/check.py, as a user runs it."""

from __future__ import annotations

import subprocess
import sys

import pytest
import yaml
from rendered_manifests import ROOT, changed, named, render

from manifests.check import MODE, ignored_canaries

STEP = "manifests/overlays/canary/knative/3-canary-10"


def run_check(text: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "manifests" / "check.py"]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("mode", ["Standard", "RawDeployment", None])
def test_weight_that_kserve_would_ignore_is_refused(mode: str | None) -> None:
    objects = render(STEP)
    for item in objects:
        if item["kind"] == "InferenceService":
            item["metadata"]["annotations"].pop(MODE)
            if mode:
                item["metadata"]["annotations"][MODE] = mode
    result = run_check(yaml.safe_dump_all(objects))
    assert result.returncode == 1
    assert "InferenceService chat: canaryTrafficPercent" in result.stderr
    assert "spec.canary" in result.stderr


@pytest.mark.parametrize("folder", [STEP, "manifests/overlays/canary/standard/4-canary-50"])
def test_weight_that_works_is_accepted(folder: str) -> None:
    result = run_check(yaml.safe_dump_all(render(folder)))
    assert (result.returncode, result.stderr) == (0, "")


def test_a_weight_of_zero_counts() -> None:
    item = named("manifests/base", "InferenceService", "chat")
    wrong = changed(item, lambda copy: copy["spec"]["predictor"].update(canaryTrafficPercent=0))
    assert len(ignored_canaries([wrong])) == 1


def test_other_objects_are_left_alone() -> None:
    assert run_check("---\nkind: ConfigMap\n---\n").returncode == 0
    assert ignored_canaries([{"kind": "InferenceService", "metadata": {"name": "a"}, "spec": None}]) == []
