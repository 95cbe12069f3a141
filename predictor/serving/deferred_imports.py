"""Imports kserve without what serving never uses of it, because a pod's first answer waits for its imports.

kserve imports pandas, the Kubernetes client and a class for every kind of resource at its top: half of its
import time, for data frames and for creating InferenceServices. Here pandas is loaded when one of its
functions is first called, the classes when one is first asked for, and the client not at all. Nothing but
kserve's own modules ever sees the stand-ins.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_CLIENT = "kserve.api.kserve_client"
# Generated from the Kubernetes API of KServe, with the client that sends them.
_GENERATED = ("kserve.models", "kserve.api_client", "kserve.configuration", "kserve.exceptions")


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


class _Generated:
    """Stands for any class of a generated module."""


class _GeneratedModule(ModuleType):
    """Has a stand-in under every name."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Generated


class _GeneratedFinder(MetaPathFinder, Loader):
    """Finds a stand-in for every generated module."""

    def find_spec(
        self, fullname: str, _path: Sequence[str] | None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """See `MetaPathFinder`."""
        if not any(fullname == name or fullname.startswith(f"{name}.") for name in _GENERATED):
            return None
        return ModuleSpec(fullname, self, is_package=fullname == _GENERATED[0])

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """See `Loader`."""
        return _GeneratedModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """See `Loader`."""


def import_kserve() -> None:
    """Import kserve the quick way; without effect where it is imported already."""
    if "kserve" in sys.modules:
        return
    stand_ins: dict[str, ModuleType] = {_CLIENT: ModuleType(_CLIENT)}
    stand_ins[_CLIENT].KServeClient = _NoClient  # type: ignore[attr-defined]
    if "pandas" not in sys.modules:
        stand_ins["pandas"] = _DeferredPandas("pandas")
    sys.modules.update(stand_ins)
    finder = _GeneratedFinder()
    sys.meta_path.insert(0, finder)
    try:
        kserve = importlib.import_module("kserve")
    finally:
        sys.meta_path.remove(finder)
        for name, module in list(sys.modules.items()):
            if name in stand_ins or isinstance(module, _GeneratedModule):
                del sys.modules[name]
    _defer_generated(kserve)


def _defer_generated(kserve: ModuleType) -> None:
    """Take the stand-ins out of kserve, which loads the real modules when one is asked for."""
    names = [name for name, value in vars(kserve).items() if value is _Generated]
    modules = [name for name, value in vars(kserve).items() if isinstance(value, _GeneratedModule)]
    for name in (*names, *modules):
        delattr(kserve, name)

    def find(name: str) -> Any:
        if name in modules:
            return importlib.import_module(f"kserve.{name}")
        for module in _GENERATED if name in names else ():
            if (found := getattr(importlib.import_module(module), name, None)) is not None:
                return found
        raise AttributeError(f"module 'kserve' has no attribute {name!r}")

    kserve.__getattr__ = find  # type: ignore[method-assign]
