"""Refuses InferenceServices whose canary weight KServe would silently ignore.

    kubectl kustomize OVERLAY | python manifests/check.py

`canaryTrafficPercent` works in Knative mode only. In Standard mode KServe accepts it and sends all traffic to
the new version at once (https://github.com/kserve/kserve/issues/5335); weights belong in `spec.canary`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

MODE = "serving.kserve.io/deploymentMode"
KNATIVE = ("Knative", "Serverless")  # the second is the name before KServe 0.16
COMPONENTS = ("predictor", "transformer", "explainer")


def ignored_canaries(objects: Iterable[Mapping[str, Any]]) -> list[str]:
    """One message per InferenceService that sets `canaryTrafficPercent` outside Knative mode.

    Args:
        objects: Kubernetes objects of any kind, as parsed from YAML or read from the API.
    """
    return [message for item in objects if (message := _ignored_canary(item)) is not None]


def _ignored_canary(item: Mapping[str, Any]) -> str | None:
    if item.get("kind") != "InferenceService":
        return None
    spec, metadata = item.get("spec") or {}, item.get("metadata") or {}
    if not any("canaryTrafficPercent" in (spec.get(component) or {}) for component in COMPONENTS):
        return None
    mode = (metadata.get("annotations") or {}).get(MODE)
    if mode in KNATIVE:
        return None
    found = (
        f"in {mode} mode" if mode else f"without the annotation {MODE}, so the mode depends on the cluster"
    )
    return (
        f"InferenceService {metadata.get('name')}: canaryTrafficPercent {found}; KServe ignores it in "
        f"Standard mode and sends all traffic to the new version. Set {MODE}: Knative, or use spec.canary"
    )


def main() -> None:
    """Check the manifests on standard input."""
    problems = ignored_canaries(item for item in yaml.safe_load_all(sys.stdin) if isinstance(item, Mapping))
    if problems:
        sys.exit("\n".join(problems))


if __name__ == "__main__":
    main()
