"""Custom resources against their CustomResourceDefinitions, without an API server."""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from typing import Any

import jsonschema
from crd_definitions import definitions
from rendered_manifests import Object


@cache
def schemas() -> dict[tuple[str, str], Any]:
    """Closed JSON schemas by apiVersion and kind."""
    return {
        (f"{crd['spec']['group']}/{version['name']}", crd["spec"]["names"]["kind"]): whole(
            version["schema"]["openAPIV3Schema"]
        )
        for crd in definitions().values()
        for version in crd["spec"]["versions"]
    }


def problems(item: Object) -> list[str]:
    """What is wrong with a custom resource: types, required and unknown fields, patterns, limits."""
    validator = jsonschema.Draft202012Validator(schemas()[item["apiVersion"], item["kind"]])
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(item)]


def whole(schema: Object) -> Object:
    """A closed JSON schema of a definition's."""
    schema = deepcopy(schema)
    # Kubernetes has these in every resource, whether the schema says so or not.
    schema["properties"] |= {
        "apiVersion": {"type": "string"},
        "kind": {"type": "string"},
        "metadata": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
    }
    _close(schema)
    return schema


def _close(schema: Any) -> None:
    """Turn Kubernetes' dialect into JSON schema, refusing unknown fields as strict validation does."""
    if schema.pop("nullable", False) and "type" in schema:
        schema["type"] = [schema["type"], "null"]
    if schema.pop("x-kubernetes-int-or-string", False):
        schema["type"] = ["integer", "string"]
    open_ended = schema.pop("x-kubernetes-preserve-unknown-fields", False)
    if "properties" in schema and not open_ended:
        schema.setdefault("additionalProperties", False)
    children = list(schema.get("properties", {}).values())
    children += [
        schema[key] for key in ("items", "additionalProperties") if isinstance(schema.get(key), dict)
    ]
    for child in children:
        _close(child)
