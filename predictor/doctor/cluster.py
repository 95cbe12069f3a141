"""A cluster with KServe: versions, what cuts a first request short, and whether nodes get the image.

Only reads, with the kubeconfig's rights. What may not be read is a finding.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from predictor.doctor.finding import Finding, good, note, problem

Read = Callable[[str], Any]
"""Gives the object or list at a path of the Kubernetes API, None where there is none."""

TESTED_KSERVE = (0, 21)
OLDEST_KNATIVE = (1, 15)
READ_SECONDS = 10
START_SECONDS = 1800
"""How long the runtime's startup probe lets a model load."""
IMAGE = "kserve-llamacpp"
_KNATIVE_DEFAULTS = {"revision-response-start-timeout-seconds": 300, "revision-timeout-seconds": 300}


class NotAllowed(Exception):
    """The kubeconfig's user may not read this."""


def connect(context: str | None) -> Read:
    """A way to read a kubeconfig's cluster.

    Raises:
        ConfigException: there is no such context, or no kubeconfig.
    """
    from kubernetes import config
    from kubernetes.client import ApiException

    api = config.new_client_from_config(context=context)

    def read(path: str) -> Any:
        request = api.param_serialize("GET", path, auth_settings=["BearerToken"])
        answer = api.call_api(*request, _request_timeout=READ_SECONDS)
        content = answer.read()
        if answer.status == 404:
            return None
        if answer.status in (401, 403):
            raise NotAllowed(path)
        if answer.status != 200:
            raise ApiException(http_resp=answer)
        return json.loads(content)

    return read


def examine_cluster(read: Read) -> Iterator[Finding]:
    """Look at everything that this user may read."""
    for subject, examine in _EXAMINATIONS.items():
        try:
            yield from examine(read)
        except NotAllowed as error:
            yield note(subject, f"{error} may not be read", "ask whoever may")


def _kserve(read: Read) -> Iterator[Finding]:
    group = read("/apis/serving.kserve.io")
    if group is None:
        yield problem("KServe", "it is not installed", "install KServe 0.21 or newer")
        return
    version = _version(read("/apis/apps/v1/namespaces/kserve/deployments/kserve-controller-manager"))
    if version is None:
        yield note(
            "KServe",
            "no controller in the namespace kserve",
            "see that one runs, of 0.21 or newer",
        )
    elif version < TESTED_KSERVE:
        yield note(
            "KServe",
            f"{_dotted(version)}: its canaries in Standard mode get no share of the traffic",
            f"update to {_dotted(TESTED_KSERVE)} or newer, or roll out in Knative mode",
        )
    else:
        yield good("KServe", _dotted(version))
    settings = (read("/api/v1/namespaces/kserve/configmaps/inferenceservice-config") or {}).get("data", {})
    found = re.search(r'"defaultDeploymentMode"\s*:\s*"(\w+)"', settings.get("deploy", ""))
    mode = found[1] if found else "Knative"
    yield good("mode", f"{mode}, unless an InferenceService's annotation says otherwise")
    gateway = re.search(r'"enableGatewayApi"\s*:\s*true', settings.get("ingress", ""))
    if mode in ("Standard", "RawDeployment") and not gateway:
        yield note(
            "mode",
            "KServe makes Ingresses, which have no weights: canaries in Standard mode get no share",
            "set enableGatewayApi in inferenceservice-config",
        )


def _knative(read: Read) -> Iterator[Finding]:
    config = read("/api/v1/namespaces/knative-serving/configmaps/config-defaults")
    if config is None:
        yield good("Knative", "it is not installed: Standard mode only")
        return
    version = _version(read("/apis/apps/v1/namespaces/knative-serving/deployments/controller"), config)
    if version is not None and version < OLDEST_KNATIVE:
        advice = f"update to {_dotted(OLDEST_KNATIVE)} or newer"
        yield problem("Knative", f"{_dotted(version)} knows no startup probes", advice)
    else:
        yield good("Knative", _dotted(version) if version else "it is installed")
    data = config.get("data") or {}
    for name, default in _KNATIVE_DEFAULTS.items():
        seconds = int(data.get(name, default))
        if seconds < START_SECONDS:
            yield note(
                "first request",
                f"Knative's {name} is {seconds}: a request that starts a pod is cut after that",
                f"raise it in config-defaults up to {START_SECONDS}, or see that models load faster",
            )


def _routes(read: Read) -> Iterator[Finding]:
    routes = read("/apis/gateway.networking.k8s.io/v1/httproutes")
    if routes is None:
        yield good("gateway", "there is no Gateway API: no split of traffic in Standard mode")
        return
    short: dict[str, None] = {}
    for route in routes["items"]:
        owners = route["metadata"].get("ownerReferences", [])
        times = [(rule.get("timeouts") or {}).get("request", "0s") for rule in route["spec"].get("rules", [])]
        if any(owner["kind"] == "InferenceService" for owner in owners):
            name = f"{route['metadata']['namespace']}/{route['metadata']['name']}"
            short |= dict.fromkeys([f"{name} cuts answers after {time}" for time in times if _is_short(time)])
    for route_and_time in short:
        advice = f"set spec.predictor.timeout of the InferenceService, in seconds, up to {START_SECONDS}"
        yield note("gateway", f"route {route_and_time}", advice)
    if not short:
        yield good("gateway", "no route of an InferenceService cuts answers short")


def _runtimes(read: Read) -> Iterator[Finding]:
    images: dict[str, str] = {}
    for kind in ("clusterservingruntimes", "servingruntimes"):
        for runtime in (read(f"/apis/serving.kserve.io/v1alpha1/{kind}") or {"items": []})["items"]:
            formats = [entry["name"] for entry in runtime["spec"].get("supportedModelFormats", [])]
            if "gguf" in formats:
                images[runtime["metadata"]["name"]] = runtime["spec"]["containers"][0]["image"]
    if not images:
        yield problem(
            "runtime",
            "no ServingRuntime serves the format gguf",
            "kubectl apply --kustomize runtimes/kserve/cluster/cpu, or install the chart",
        )
    for name, image in images.items():
        if "/" in image:
            yield good("runtime", f"{name}: {image}")
        else:
            advice = "push it to a registry of yours and set its name, or load it onto every node"
            yield note("runtime", f"{name}: {image} names no registry, so no node can pull it", advice)


def _pods(read: Read) -> Iterator[Finding]:
    stuck = 0
    for pod in (read("/api/v1/pods") or {"items": []})["items"]:
        for status in pod.get("status", {}).get("containerStatuses") or []:
            waiting = ((status.get("state") or {}).get("waiting") or {}).get("reason", "")
            killed = ((status.get("lastState") or {}).get("terminated") or {}).get("reason", "")
            name = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
            if IMAGE not in status.get("image", ""):
                continue
            if waiting in ("ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName"):
                stuck += 1
                advice = "see that the node reaches the registry and has its pull secret"
                yield problem("image", f"pod {name} can't get {status['image']} ({waiting})", advice)
            if killed == "OOMKilled":
                stuck += 1
                advice = "raise its memory limit, or lower --context-tokens"
                yield problem("memory", f"pod {name} was killed for its memory", advice)
    if not stuck:
        yield good("pods", "none lacks its image or was killed for its memory")


_EXAMINATIONS: dict[str, Callable[[Read], Iterator[Finding]]] = {
    "KServe": _kserve,
    "Knative": _knative,
    "gateway": _routes,
    "runtime": _runtimes,
    "pods": _pods,
}


def _version(*objects: Any) -> tuple[int, ...] | None:
    """Major and minor version, from labels or the image of a Deployment; None where they say none."""
    for thing in objects:
        if thing is None:
            continue
        labels = thing["metadata"].get("labels") or {}
        containers = thing.get("spec", {}).get("template", {}).get("spec", {}).get("containers", [])
        texts = [
            labels.get("app.kubernetes.io/version", ""),
            *(one["image"].rpartition(":")[2] for one in containers),
        ]
        for text in texts:
            if found := re.match(r"v?(\d+)\.(\d+)", text):
                return int(found[1]), int(found[2])
    return None


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _is_short(timeout: str) -> bool:
    return 0 < _seconds(timeout) < START_SECONDS


def _seconds(duration: str) -> float:
    """Of a duration as the Gateway API writes it, such as 1h30m or 500ms."""
    units = {"h": 3600, "m": 60, "s": 1, "ms": 0.001}
    return sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+)(ms|h|m|s)", duration))
