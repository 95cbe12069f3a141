"""Objects against the classes of KServe's Python SDK, which is always there."""

from __future__ import annotations

import re
from typing import Any

import kserve.models
import kubernetes.client
from rendered_manifests import Object

CLASSES = {
    ("serving.kserve.io/v1beta1", "InferenceService"): "V1beta1InferenceService",
    ("serving.kserve.io/v1alpha1", "InferenceGraph"): "V1alpha1InferenceGraph",
    ("serving.kserve.io/v1alpha1", "ServingRuntime"): "V1alpha1ServingRuntime",
    ("serving.kserve.io/v1alpha1", "ClusterServingRuntime"): "V1alpha1ClusterServingRuntime",
}
_MODULES = (kserve, kserve.models, kubernetes.client)
_SCALARS: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "object": (object,),
    "datetime": (str,),
    "ResourceQuantity": (str, int),
    "V1beta1MetricQuantity": (str, int),
}
_CONTAINER = re.compile(r"(list|dict)[\[(](?:str, )?(.+)[\])]", re.IGNORECASE)


# The SDK names Kubernetes' own classes by their Go package.
_KUBERNETES_CLASS = re.compile(r"K8sIoApi[A-Z][a-z]+(V\d.+)")


def problems(item: Object) -> list[str]:
    """Unknown fields, wrong types and missing fields by the SDK's classes."""
    found: list[str] = []
    _check(item, CLASSES[item["apiVersion"], item["kind"]], item["kind"], found)
    return found


def _check(value: Any, type_name: str, path: str, found: list[str]) -> None:
    if container := _CONTAINER.fullmatch(type_name):
        _check_container(value, container[1].lower(), container[2], path, found)
    elif type_name in _SCALARS:
        is_stray_bool = isinstance(value, bool) and type_name not in ("bool", "object")
        if is_stray_bool or not isinstance(value, _SCALARS[type_name]):
            found.append(f"{path}: {value!r} is not {type_name}")
    else:
        _check_class(value, type_name, path, found)


def _check_container(value: Any, shape: str, inner: str, path: str, found: list[str]) -> None:
    if not isinstance(value, {"list": list, "dict": dict}[shape]):
        found.append(f"{path}: {value!r} is not a {shape}")
        return
    for key, element in enumerate(value) if shape == "list" else value.items():
        _check(element, inner, f"{path}[{key}]", found)


def _check_class(value: Any, type_name: str, path: str, found: list[str]) -> None:
    cls_name = _KUBERNETES_CLASS.sub(r"\1", type_name)
    cls = next(getattr(module, cls_name) for module in _MODULES if hasattr(module, cls_name))
    if not isinstance(value, dict):
        found.append(f"{path}: {value!r} is not a {type_name}")
        return
    names = {json_name: name for name, json_name in cls.attribute_map.items()}
    for key, element in value.items():
        if key in names:
            _check(element, cls.openapi_types[names[key]], f"{path}.{key}", found)
        else:
            found.append(f"{path}: unknown field {key}")
    try:
        cls(**{names[key]: element for key, element in value.items() if key in names})
    except ValueError as error:  # a required field is missing
        found.append(f"{path}: {error}")
