"""Progressive delivery for InferenceServices: canaries that judge themselves.

Needs the extra `rollout`: `pip install 'kserve-llamacpp[rollout]'`. Nothing that serves imports this package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rollout.cluster import Cluster as Cluster
    from rollout.plan import Plan as Plan
    from rollout.result import Outcome as Outcome
    from rollout.result import Result as Result
    from rollout.rollout import Rollout as Rollout

_HOMES = {
    "Cluster": "rollout.cluster",
    "Outcome": "rollout.result",
    "Plan": "rollout.plan",
    "Result": "rollout.result",
    "Rollout": "rollout.rollout",
}
__all__ = ["Cluster", "Outcome", "Plan", "Result", "Rollout"]


def __getattr__(name: str) -> Any:
    """Import on first use: judges import parts of this package without the Kubernetes client."""
    if name not in _HOMES:
        raise AttributeError(f"module 'rollout' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
