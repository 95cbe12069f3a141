"""Imports kserve without what serving never uses of it, because a pod's first answer waits for its imports.

kserve imports pandas and the Kubernetes client at its top: over a quarter of its import time, for data frames
and for creating InferenceServices. Here pandas is loaded when one of its functions is first called, and the
client not at all. Nothing but kserve's own modules ever sees the stand-ins.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

_CLIENT = "kserve.api.kserve_client"


class _DeferredDataFrame:
    """Good enough for annotations, which are evaluated on import; called, it makes a real data frame."""

    def __new__(cls, *arguments: Any, **options: Any) -> Any:
        return importlib.import_module("pandas").DataFrame(*arguments, **options)


class _DeferredPandas(ModuleType):
    """Loads pandas when anything but its data frame is asked for."""

    DataFrame = _DeferredDataFrame

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(importlib.import_module("pandas"), name)


class _NoClient:
    """Stands for kserve's client of the Kubernetes API."""

    def __init__(self, *_: Any, **__: Any) -> None:
        raise RuntimeError("the server process has no Kubernetes client; import kserve in another process")


def import_kserve() -> None:
    """Import kserve the quick way; without effect where it is imported already."""
    if "kserve" in sys.modules:
        return
    stand_ins: dict[str, ModuleType] = {_CLIENT: ModuleType(_CLIENT)}
    stand_ins[_CLIENT].KServeClient = _NoClient  # type: ignore[attr-defined]
    if "pandas" not in sys.modules:
        stand_ins["pandas"] = _DeferredPandas("pandas")
    sys.modules.update(stand_ins)
    try:
        importlib.import_module("kserve")
    finally:
        for name in stand_ins:
            del sys.modules[name]
