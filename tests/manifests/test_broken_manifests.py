"""Each check can fail: a field broken on purpose in each kind is caught."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import crd_schemas
import interceptor_schema
import kserve_sdk
import kubernetes_go
import kubernetes_validate
import pytest
from admission_rules import clashes, knative_problems, problems
from crd_definitions import CRD_FOLDER, NO_CRDS
from kubernetes_validate.utils import all_versions
from rendered_manifests import changed, named, one_of_each_kind, predictor_pod, render

Change = Callable[[Any], object]

needs_crds = pytest.mark.skipif(not CRD_FOLDER.is_dir(), reason=NO_CRDS)
needs_go = pytest.mark.skipif(not kubernetes_go.has_go(), reason=kubernetes_go.NO_GO)

SERVICE = ("manifests/overlays/canary/standard/3-canary-10", "InferenceService", "chat")
AUTOSCALER = "serving.kserve.io/autoscalerClass"
KNATIVE = ("manifests/overlays/canary/knative/3-canary-10", "InferenceService", "chat")
GRAPH = ("manifests/overlays/multi-model", "InferenceGraph", "chat")
RUNTIME = ("runtimes/kserve/cluster/cuda", "ClusterServingRuntime", "kserve-llamacpp-cuda")


def misspelt(path: str) -> Change:
    """Renames the last field of a dotted path, digits being list indices."""

    def change(item: Any) -> None:
        *parents, last = path.split(".")
        for step in parents:
            item = item[int(step)] if step.isdigit() else item[step]
        item[last + "s"] = item.pop(last)

    return change


def set_to(path: str, value: object) -> Change:
    """Sets the last field of a dotted path."""

    def change(item: Any) -> None:
        *parents, last = path.split(".")
        for step in parents:
            item = item[int(step)] if step.isdigit() else item[step]
        item[last] = value

    return change


BUILTIN = {
    ("apps/v1", "Deployment"): "spec.template.spec.containers.0.livenessProbe",
    ("autoscaling/v2", "HorizontalPodAutoscaler"): "spec.maxReplicas",
    ("networking.k8s.io/v1", "NetworkPolicy"): "spec.podSelector",
    ("policy/v1", "PodDisruptionBudget"): "spec.maxUnavailable",
    ("rbac.authorization.k8s.io/v1", "Role"): "rules.0.verbs",
    ("rbac.authorization.k8s.io/v1", "RoleBinding"): "roleRef",
    ("v1", "ConfigMap"): "data",
    ("v1", "Namespace"): "metadata.labels",
    ("v1", "PersistentVolumeClaim"): "spec.accessModes",
    ("v1", "Service"): "spec.selector",
    ("v1", "ServiceAccount"): "automountServiceAccountToken",
}
CUSTOM = {
    ("serving.kserve.io/v1beta1", "InferenceService"): "spec.predictor.model.storageUri",
    ("serving.kserve.io/v1alpha1", "ServingRuntime"): "spec.containers.0.livenessProbe",
    ("serving.kserve.io/v1alpha1", "ClusterServingRuntime"): "spec.supportedModelFormats.0.autoSelect",
    ("serving.kserve.io/v1alpha1", "ClusterStorageContainer"): "spec.supportedUriFormats.0.regex",
    ("serving.kserve.io/v1alpha1", "LocalModelCache"): "spec.nodeGroups",
    ("serving.kserve.io/v1alpha1", "InferenceGraph"): "spec.nodes.root.steps.0.condition",
    ("keda.sh/v1alpha1", "ScaledObject"): "spec.cooldownPeriod",
    ("gateway.networking.k8s.io/v1", "HTTPRoute"): "spec.rules.0.backendRefs",
    ("http.keda.sh/v1beta1", "InterceptorRoute"): "spec.timeouts.readiness",
    ("monitoring.coreos.com/v1", "PodMonitor"): "spec.podMetricsEndpoints",
    ("monitoring.coreos.com/v1", "PrometheusRule"): "spec.groups.0.rules.0.expr",
    ("autoscaling.k8s.io/v1", "VerticalPodAutoscaler"): "spec.updatePolicy.updateMode",
}


def test_every_kind_has_a_broken_example() -> None:
    assert one_of_each_kind().keys() == BUILTIN.keys() | CUSTOM.keys()


@pytest.mark.parametrize("key", BUILTIN, ids=lambda key: key[1])
def test_misspelt_field_of_a_builtin_kind_is_caught(key: tuple[str, str]) -> None:
    broken = changed(one_of_each_kind()[key], misspelt(BUILTIN[key]))
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, all_versions()[-1], strict=True)


@pytest.mark.parametrize("key", CUSTOM, ids=lambda key: key[1])
def test_misspelt_field_of_a_custom_kind_is_caught(key: tuple[str, str]) -> None:
    broken = changed(one_of_each_kind()[key], misspelt(CUSTOM[key]))
    caught = []
    if CRD_FOLDER.is_dir() and key in crd_schemas.schemas():
        caught.append(crd_schemas.problems(broken))
    if key in kserve_sdk.CLASSES:
        caught.append(kserve_sdk.problems(broken))
    if key in kubernetes_go.DECODED and kubernetes_go.has_go():
        caught.append(kubernetes_go.decode(broken))
    if key in interceptor_schema.SCHEMAS:
        caught.append(interceptor_schema.problems(broken))
    if not caught:
        pytest.skip(f"nothing on this machine knows {key[1]}: {NO_CRDS}, or {kubernetes_go.NO_GO}")
    assert all(caught)


@needs_crds
@pytest.mark.parametrize(
    "change",
    [
        set_to("spec.predictor.minReplicas", "one"),
        set_to("spec.canary.0.trafficPercent", 101),
        set_to("spec.predictor.scaleMetric", "requests"),
        lambda item: item["spec"]["canary"][0].pop("trafficPercent"),
    ],
)
def test_wrong_value_is_caught_by_the_definition(change: Change) -> None:
    assert crd_schemas.problems(changed(named(*SERVICE), change))


@pytest.mark.parametrize(
    ("where", "change"),
    [
        (SERVICE, set_to("metadata.name", "Chat")),
        (SERVICE, set_to("metadata.annotations", {})),
        (SERVICE, lambda item: item["metadata"]["annotations"].update({AUTOSCALER: "vpa"})),
        (SERVICE, set_to("spec.predictor.model.name", "kserve-container")),
        (SERVICE, set_to("spec.predictor.minReplicas", 2)),
        (SERVICE, set_to("spec.predictor.sklearn", {})),
        (SERVICE, set_to("spec.predictor.storageUris", [{"uri": "hf://a/b"}])),
        (SERVICE, set_to("spec.predictor.storageUris", [{"uri": "hf://a/b", "mountPath": "/mnt/../etc"}])),
        (SERVICE, set_to("spec.predictor.model.env", [{"name": "PYTHONPATH", "value": "/x"}])),
        (SERVICE, set_to("spec.predictor.scaleMetric", "concurrency")),
        (SERVICE, set_to("spec.predictor.canaryTrafficPercent", 10)),
        (SERVICE, set_to("spec.canary.0.predictor.name", "")),
        (SERVICE, lambda item: item["spec"]["predictor"].update(name="qwen-1-5b")),
        (SERVICE, lambda item: item["spec"]["canary"].append(item["spec"]["canary"][0])),
        (SERVICE, lambda item: [c.update(trafficPercent=101) for c in item["spec"]["canary"]]),
        (SERVICE, set_to("spec.canary.0.predictor.maxReplicas", 3)),
        (SERVICE, set_to("spec.canary.0.predictor.minReplicas", 2)),
        (KNATIVE, set_to("spec.predictor.scaleMetric", "cpu")),
        (KNATIVE, set_to("spec.predictor.deploymentStrategy", {"type": "Recreate"})),
        (KNATIVE, set_to("spec.canary", [{"trafficPercent": 1, "predictor": {"name": "b", "model": {}}}])),
        (GRAPH, misspelt("spec.nodes.root")),
        (GRAPH, set_to("spec.nodes.root.routerType", "Split")),
        (GRAPH, set_to("spec.nodes.root.steps.0.nodeName", "other")),
        (GRAPH, lambda item: item["spec"]["nodes"]["root"]["steps"][0].pop("condition")),
        (GRAPH, set_to("spec.nodes.root.routerType", "Splitter")),
        (
            RUNTIME,
            lambda item: item["spec"]["supportedModelFormats"].append(
                {"name": "gguf", "autoSelect": True, "priority": 3}
            ),
        ),
        (RUNTIME, set_to("spec.containers.0.env", [{"name": "PYTHONPATH", "value": "/x"}])),
    ],
)
def test_what_kserves_webhooks_refuse_is_caught(where: tuple[str, str, str], change: Change) -> None:
    item = named(*where)
    assert not problems(item)
    assert problems(changed(item, change))


@pytest.mark.parametrize(
    ("metric", "found"),
    [
        ({"type": "External", "external": {"metric": {}, "target": {"value": "1"}}}, "query"),
        ({"type": "External", "external": {"metric": {"query": "up"}, "target": {}}}, "target value"),
    ],
)
def test_keda_metrics_need_query_and_target(metric: dict, found: str) -> None:
    item = named("manifests/overlays/autoscaling/keda", "InferenceService", "chat")
    (problem,) = problems(changed(item, set_to("spec.predictor.autoScaling.metrics", [metric])))
    assert found in problem


def test_equal_priorities_are_caught() -> None:
    (cpu,), (cuda,) = render("runtimes/kserve/cluster/cpu"), render("runtimes/kserve/cluster/cuda")
    assert clashes([cpu, changed(cuda, set_to("spec.supportedModelFormats.0.priority", 2))])


def test_fields_that_only_standard_mode_takes_are_caught() -> None:
    pod = predictor_pod(named("manifests/base", "InferenceService", "chat")["spec"]["predictor"])
    found = knative_problems(pod)
    assert sorted(found) == ["the container's lifecycle", "the pod's terminationGracePeriodSeconds"]


@needs_go
@pytest.mark.parametrize(
    "change",
    [
        set_to("containers.0.securityContext.allowPrivilegeEscalation", True),
        set_to("containers.0.securityContext.capabilities", {"drop": ["NET_RAW"]}),
        set_to("containers.0.securityContext.runAsUser", 0),
        lambda pod: pod["containers"][0]["securityContext"].pop("seccompProfile"),
        lambda pod: pod["containers"][0]["securityContext"].pop("runAsNonRoot"),
        lambda pod: pod["volumes"].append({"name": "host", "hostPath": {"path": "/"}}),
        set_to("hostNetwork", True),
    ],
)
def test_pod_that_is_not_restricted_is_caught(change: Change) -> None:
    pod = predictor_pod(named("manifests/base", "InferenceService", "chat")["spec"]["predictor"])
    assert not kubernetes_go.restricted(pod)
    assert kubernetes_go.restricted(changed(pod, change))
