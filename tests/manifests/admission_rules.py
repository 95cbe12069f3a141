"""What KServe's webhooks refuse and no schema shows, as far as these manifests can touch it.

From KServe 0.21's validation of InferenceServices (pkg/apis/serving/v1beta1/inference_service_validation.go,
and the canary rules of https://github.com/kserve/kserve/pull/5672), serving runtimes and InferenceGraphs. The
webhooks run in KServe's controller only, so the rules are written again here. Knative's webhook lets some
fields of a pod through (pkg/apis/serving/fieldmask.go), and more with feature flags that are off by default.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator

from rendered_manifests import Object, predictors, walk

from manifests.check import MODE, ignored_canaries

NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
AUTOSCALERS = ("hpa", "keda", "external", "none")
CANARY_FORBIDDEN = ("maxReplicas", "scaleTarget", "scaleMetric", "autoScaling", "workerSpec")
ROUTERS = ("Sequence", "Switch", "Ensemble", "Splitter")
KNATIVE_POD_FIELDS = {
    "automountServiceAccountToken",
    "containers",
    "enableServiceLinks",
    "imagePullSecrets",
    "serviceAccountName",
    "volumes",
}
KNATIVE_CONTAINER_FIELDS = {
    "args",
    "command",
    "env",
    "envFrom",
    "image",
    "imagePullPolicy",
    "livenessProbe",
    "name",
    "ports",
    "readinessProbe",
    "resources",
    "securityContext",
    "startupProbe",
    "terminationMessagePath",
    "terminationMessagePolicy",
    "volumeMounts",
    "workingDir",
}


def problems(item: Object) -> list[str]:
    """What the webhook for this kind would refuse."""
    checks = {
        "InferenceService": _service,
        "ServingRuntime": _runtime,
        "ClusterServingRuntime": _runtime,
        "InferenceGraph": _graph,
    }
    check = checks.get(item["kind"])
    return list(check(item)) if check else []


def clashes(runtimes: Iterable[Object]) -> list[str]:
    """Runtimes of one scope that would claim the same format with the same priority."""
    claims = Counter(
        (entry["name"], entry.get("version"), protocol, entry.get("priority"))
        for runtime in runtimes
        for entry in runtime["spec"]["supportedModelFormats"]
        if entry.get("autoSelect")
        for protocol in runtime["spec"]["protocolVersions"]
    )
    return [f"{count} runtimes claim {claim}" for claim, count in claims.items() if count > 1]


def knative_problems(pod: Object) -> list[str]:
    """What Knative would refuse of a pod spec, without feature flags."""
    found = [f"the pod's {field}" for field in pod.keys() - KNATIVE_POD_FIELDS]
    for container in pod["containers"]:
        found += [f"the container's {field}" for field in container.keys() - KNATIVE_CONTAINER_FIELDS]
        if len(container.get("ports", [])) > 1:
            found.append("more than one port")
    return found


def _service(item: Object) -> Iterator[str]:
    spec, annotations = item["spec"], item["metadata"].get("annotations", {})
    mode = annotations.get(MODE)
    if not NAME.fullmatch(item["metadata"]["name"]):
        yield f"the name does not match {NAME.pattern}"
    if mode not in ("Standard", "Knative"):
        yield f"{MODE} is {mode!r}"
    autoscaler = annotations.get("serving.kserve.io/autoscalerClass", "hpa")
    if autoscaler not in AUTOSCALERS:
        yield f"unknown autoscaler class {autoscaler}"
    if spec["predictor"]["model"].get("name"):
        yield "predictor.model.name is not allowed"
    for predictor in predictors(item):
        yield from _predictor(predictor)
    yield from _scaling(spec["predictor"], mode, autoscaler)
    yield from _canaries(spec, mode)
    yield from ignored_canaries([item])


def _predictor(predictor: Object) -> Iterator[str]:
    implementations = predictor.keys() & {"model", "containers", "sklearn", "triton", "onnx", "huggingface"}
    if len(implementations) != 1:
        yield f"{len(implementations)} implementations instead of one"
    if predictor.get("minReplicas", 0) > predictor.get("maxReplicas", float("inf")):
        yield "minReplicas is above maxReplicas"
    if "storageUri" in predictor["model"] and "storageUris" in predictor:
        yield "storageUri and storageUris"
    if any(variable.get("name") == "PYTHONPATH" for variable in predictor["model"].get("env", [])):
        yield "the environment variable PYTHONPATH"
    for uri in predictor.get("storageUris", []):
        path = uri.get("mountPath", "/mnt/models")
        if not path.startswith("/") or ".." in path.split("/"):
            yield f"mount path {path}"


def _scaling(predictor: Object, mode: str | None, autoscaler: str) -> Iterator[str]:
    metric = predictor.get("scaleMetric")
    metrics = predictor.get("autoScaling", {}).get("metrics", [])
    if mode == "Knative":
        if metric not in (None, "concurrency", "rps"):
            yield f"Knative scales on concurrency or rps, not {metric}"
        if "deploymentStrategy" in predictor:
            yield "Knative takes no deploymentStrategy"
    elif autoscaler == "hpa":
        if metric not in (None, "cpu", "memory"):
            yield f"the HPA scales on cpu or memory, not {metric}"
        if metric == "cpu" and not 1 <= predictor.get("scaleTarget", 80) <= 100:
            yield "the target utilisation is not in 1 to 100"
        if any(entry["type"] != "Resource" for entry in metrics):
            yield "the HPA takes metrics of type Resource only"
    elif autoscaler == "keda":
        if metric is not None:
            yield "KEDA takes no scaleMetric"
        yield from _keda_metrics(metrics)


def _keda_metrics(metrics: list[Object]) -> Iterator[str]:
    for entry in metrics:
        source = entry.get({"External": "external", "PodMetric": "podmetric"}.get(entry["type"], ""), {})
        if entry["type"] != "Resource" and not source.get("metric", {}).get("query"):
            yield "an External or PodMetric metric needs a query"
        target = source.get("target", {})
        if entry["type"] != "Resource" and not {"value", "averageValue"} & target.keys():
            yield "an External or PodMetric metric needs a target value"


def _canaries(spec: Object, mode: str | None) -> Iterator[str]:
    canaries = spec.get("canary", [])
    if canaries and mode != "Standard":
        yield "spec.canary works in Standard mode only"
    names = [canary["predictor"].get("name") for canary in canaries]
    if not all(names):
        yield "a canary's predictor has no name"
    if len({*names, spec["predictor"].get("name")}) <= len(names):
        yield "two predictors have the same name"
    if sum(canary["trafficPercent"] for canary in canaries) > 100:
        yield "the canaries' traffic adds up to more than 100"
    for predictor in (canary["predictor"] for canary in canaries):
        for field in predictor.keys() & set(CANARY_FORBIDDEN):
            yield f"a canary takes no {field}"
        if predictor.get("minReplicas", 0) > spec["predictor"].get("minReplicas", 1):
            yield "a canary has more replicas than the stable predictor"


def _runtime(item: Object) -> Iterator[str]:
    priorities: dict[str, set[int | None]] = {}
    for entry in item["spec"]["supportedModelFormats"]:
        if entry.get("autoSelect"):
            priorities.setdefault(entry["name"], set()).add(entry.get("priority"))
    for name, found in priorities.items():
        if len(found) > 1:
            yield f"the entries of format {name} have different priorities"
    if any(variable.get("name") == "PYTHONPATH" for variable in walk(item)):
        yield "the environment variable PYTHONPATH"


def _graph(item: Object) -> Iterator[str]:
    nodes = item["spec"]["nodes"]
    if "root" not in nodes:
        yield "no node is called root"
    for name, node in nodes.items():
        if node["routerType"] not in ROUTERS:
            yield f"{name}: unknown router {node['routerType']}"
        for step in node["steps"]:
            targets = step.keys() & {"serviceName", "serviceUrl", "nodeName"}
            if len(targets) != 1:
                yield f"{name}: a step has {len(targets)} targets instead of one"
            if node["routerType"] == "Switch" and "condition" not in step:
                yield f"{name}: a step of a Switch has no condition"
        if node["routerType"] == "Splitter" and sum(step.get("weight", 0) for step in node["steps"]) != 100:
            yield f"{name}: the weights do not add up to 100"
