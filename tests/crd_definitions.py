"""The CustomResourceDefinitions that lie outside the checkout, in ../shared/crds."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml

CRD_FOLDER = Path(__file__).resolve().parents[2] / "shared" / "crds"
NO_CRDS = f"{CRD_FOLDER} is not there, which holds the CustomResourceDefinitions"


@cache
def definitions() -> dict[str, dict[str, Any]]:
    """All definitions by name; of one that is there twice, the first."""
    found: dict[str, dict[str, Any]] = {}
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's: the definitions are megabytes
    for path in sorted(CRD_FOLDER.glob("*.yaml")):
        for item in yaml.load_all(path.read_text(), Loader=loader):
            if item and item["kind"] == "CustomResourceDefinition":
                found.setdefault(item["metadata"]["name"], item)
    return found
