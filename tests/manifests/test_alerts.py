"""The Prometheus rules, by promtool: syntax, and each alert firing and staying quiet on made-up series."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from rendered_manifests import changed, named

pytestmark = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (Debian: apt-get install prometheus)"
)

CASES = Path(__file__).with_name("alert_cases.yaml")


def rules() -> dict:
    return named("manifests/overlays/monitoring", "PrometheusRule", "kserve-llamacpp")["spec"]


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)


def check_rules(folder: Path, spec: dict) -> subprocess.CompletedProcess[str]:
    (folder / "rules.yaml").write_text(yaml.safe_dump(spec))
    return promtool("check", "rules", "--lint-fatal", folder / "rules.yaml")


def run_cases(folder: Path, spec: dict) -> subprocess.CompletedProcess[str]:
    (folder / "rules.yaml").write_text(yaml.safe_dump(spec))
    shutil.copy(CASES, folder / "cases.yaml")
    return promtool("test", "rules", folder / "cases.yaml")


def test_rules_are_valid(tmp_path: Path) -> None:
    result = check_rules(tmp_path, rules())
    assert result.returncode == 0, result.stdout + result.stderr


def test_queries_elsewhere_are_valid(tmp_path: Path) -> None:
    """Those of the dashboard and of KEDA, as if they were recording rules."""
    config = named("manifests/overlays/monitoring", "ConfigMap", "kserve-llamacpp-dashboard")
    panels = json.loads(config["data"]["kserve-llamacpp.json"])["panels"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    keda = named("manifests/overlays/autoscaling/keda", "InferenceService", "chat")
    queries += [
        metric["external"]["metric"]["query"]
        for metric in keda["spec"]["predictor"]["autoScaling"]["metrics"]
    ]
    recorded = [
        {"record": f"query:{number}", "expr": query.replace("$__rate_interval", "5m")}
        for number, query in enumerate(queries)
    ]
    assert len(recorded) > 15
    result = check_rules(tmp_path, {"groups": [{"name": "queries", "rules": recorded}]})
    assert result.returncode == 0, result.stdout + result.stderr
    recorded[0]["expr"] += ")"
    assert check_rules(tmp_path, {"groups": [{"name": "queries", "rules": recorded}]}).returncode != 0


def test_alerts_fire_when_they_should(tmp_path: Path) -> None:
    result = run_cases(tmp_path, rules())
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_alert_has_cases_of_both_kinds() -> None:
    alerts = {rule["alert"] for group in rules()["groups"] for rule in group["rules"]}
    firing: dict[str, set[bool]] = {}
    for case in yaml.safe_load(CASES.read_text())["tests"]:
        for expected in case["alert_rule_test"]:
            firing.setdefault(expected["alertname"], set()).add(bool(expected["exp_alerts"]))
    assert firing == {alert: {True, False} for alert in alerts}


@pytest.mark.parametrize("number", range(7))
def test_cases_notice_a_changed_threshold(tmp_path: Path, number: int) -> None:
    def raise_threshold(spec: dict) -> None:
        rule = spec["groups"][0]["rules"][number]
        # One rule has no number in it: its pods come back.
        back = " unless on () vector(1)" if rule["alert"] == "NoPodsLeft" else " * 1000"
        rule["expr"] = f"{rule['expr']}{back}"

    assert run_cases(tmp_path, changed(rules(), raise_threshold)).returncode != 0


def test_the_autoscaler_asks_for_one_namespace() -> None:
    keda = named("manifests/overlays/autoscaling/keda", "InferenceService", "chat")
    (metric,) = keda["spec"]["predictor"]["autoScaling"]["metrics"]
    assert 'namespace="' in metric["external"]["metric"]["query"]
