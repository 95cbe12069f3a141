"""An InferenceService as the API server returned it, and the patch between two specs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

OURS = "kserve-llamacpp-rollout"

Spec = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Service:
    """One state of an InferenceService."""

    namespace: str
    name: str
    uid: str
    resource_version: str
    spec: Spec
    status: dict[str, Any]
    managed_fields: tuple[Mapping[str, Any], ...] = ()

    @classmethod
    def from_object(cls, found: Mapping[str, Any]) -> Service:
        """Of the API's JSON."""
        metadata = found["metadata"]
        return cls(
            metadata["namespace"],
            metadata["name"],
            metadata["uid"],
            metadata["resourceVersion"],
            found.get("spec") or {},
            found.get("status") or {},
            tuple(metadata.get("managedFields") or ()),
        )

    @property
    def annotations(self) -> dict[str, str]:
        """Those of the status; see `rollout.record`."""
        return self.status.get("annotations") or {}

    @property
    def predictor(self) -> Spec:
        """The predictor's spec."""
        return self.spec.get("predictor") or {}

    @property
    def predictor_status(self) -> dict[str, Any]:
        """KServe's account of the predictor."""
        return (self.status.get("components") or {}).get("predictor") or {}

    def condition(self, kind: str) -> bool:
        """Whether a condition of the status is true."""
        conditions = self.status.get("conditions") or []
        return any((c["type"], c["status"]) == (kind, "True") for c in conditions)

    def last_writer(self) -> str:
        """Who changed the spec last besides the rollout, for a message."""
        entries = [
            entry
            for entry in self.managed_fields
            if entry.get("subresource") != "status"
            and entry.get("manager") != OURS
            and "f:spec" in (entry.get("fieldsV1") or {})
        ]
        if not entries:
            return "somebody"
        last = max(entries, key=lambda entry: str(entry.get("time", "")))
        return f"{last.get('manager')} at {last.get('time')}"


def merge_patch(old: Any, new: Any) -> Any:
    """The JSON merge patch (RFC 7396) that turns `old` into `new`; empty where they are equal."""
    patch: dict[str, Any] = dict.fromkeys(old.keys() - new.keys())
    for key, value in new.items():
        if key not in old:
            patch[key] = value
        elif old[key] != value:
            both_objects = isinstance(value, dict) and isinstance(old[key], dict)
            patch[key] = merge_patch(old[key], value) if both_objects else value
    return patch
