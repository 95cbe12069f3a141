"""The custom resources on a real API server: creation, server-side apply, field ownership, CEL rules."""

from __future__ import annotations

from typing import Any

import crd_schemas
import pytest
from crd_definitions import definitions
from crd_server import CrdServer
from rendered_manifests import Object, all_objects, changed, named, one_of_each_kind, predictor_pod

# The first test may have to compile the server.
pytestmark = pytest.mark.timeout(1800)

CANARY_STEPS = ("1-stable", "2-canary-0", "3-canary-10", "4-canary-50", "5-promote", "6-rollback")


def collection(item: Object, namespace: str) -> str:
    """The path of an object's collection."""
    group, version = item["apiVersion"].split("/")
    (spec,) = (
        crd["spec"]
        for crd in definitions().values()
        if (crd["spec"]["group"], crd["spec"]["names"]["kind"]) == (group, item["kind"])
    )
    scope = f"/namespaces/{namespace}" if spec["scope"] == "Namespaced" else ""
    return f"/apis/{group}/{version}{scope}/{spec['names']['plural']}"


def apply(server: CrdServer, item: Object, namespace: str, **options: Any) -> Any:
    """Server-side apply of one object; the namespace keeps tests apart."""
    name = item["metadata"]["name"]
    item = changed(item, lambda copy: copy["metadata"].pop("namespace", None))
    options.setdefault("field_manager", "tests")
    return server.apply(f"{collection(item, namespace)}/{name}", item, **options)


def custom_resources() -> list[tuple[str, Object]]:
    known = crd_schemas.schemas()
    return [(f, item) for f, item in all_objects() if (item["apiVersion"], item["kind"]) in known]


def test_every_custom_resource_is_applied(crd_server: CrdServer) -> None:
    refused = {}
    for number, (folder, item) in enumerate(custom_resources()):
        response = apply(crd_server, item, f"folder-{number}")
        if not response.is_success:
            refused[folder, item["kind"]] = response.text
        elif number % 2:
            # Applied again it is the same object, so nothing was pruned or defaulted into a conflict.
            again = apply(crd_server, item, f"folder-{number}").json()
            assert again["metadata"]["resourceVersion"] == response.json()["metadata"]["resourceVersion"]
    assert not refused


def test_every_kind_is_created(crd_server: CrdServer) -> None:
    seen = set()
    for _, item in custom_resources():
        named_anew = changed(item, lambda copy: copy["metadata"].update(name="created", namespace=None))
        del named_anew["metadata"]["namespace"]
        if item["kind"] not in seen:
            response = crd_server.create(collection(item, "created"), named_anew)
            assert response.is_success, response.text
            seen.add(item["kind"])
    assert len(seen) >= 7


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("InferenceService", lambda item: item["spec"]["predictor"].update(minReplica=1)),
        ("InferenceService", lambda item: item["spec"]["predictor"].update(minReplicas="1")),
        ("ServingRuntime", lambda item: item["spec"].pop("containers")),
        ("ClusterServingRuntime", lambda item: item["spec"]["supportedModelFormats"][0].update(priority=0)),
        ("ClusterStorageContainer", lambda item: item["spec"].update(supportedUriFormat=[])),
        ("LocalModelCache", lambda item: item["spec"].update(modelSize="big")),
        ("ScaledObject", lambda item: item["spec"]["scaleTargetRef"].pop("name")),
        ("HTTPRoute", lambda item: item["spec"]["rules"][0]["timeouts"].update(request="20 minutes")),
        # A CEL rule: the whole request can't be shorter than its part.
        ("HTTPRoute", lambda item: item["spec"]["rules"][0]["timeouts"].update(request="1m")),
    ],
)
def test_broken_field_is_refused(crd_server: CrdServer, kind: str, change: Any) -> None:
    (item,) = (item for key, item in one_of_each_kind().items() if key[1] == kind)
    assert apply(crd_server, item, "broken", dry_run=True).is_success
    response = apply(crd_server, changed(item, change), "broken", dry_run=True)
    assert response.status_code in (400, 422, 500), response.text
    assert "field" in response.text or "spec" in response.text


def test_immutable_field_is_kept(crd_server: CrdServer) -> None:
    item = named("manifests/variants/local-model-cache", "LocalModelCache", "qwen2-5-0-5b")
    assert apply(crd_server, item, "").is_success
    other = changed(item, lambda copy: copy["spec"].update(sourceModelUri="hf://other/model"))
    response = apply(crd_server, other, "")
    assert response.status_code == 422
    assert "immutable" in response.text


@pytest.mark.parametrize("mode", ["knative", "standard"])
def test_canary_steps_follow_each_other(crd_server: CrdServer, mode: str) -> None:
    """Each step is applied over the one before, as docs/kubernetes.md tells."""
    weights = []
    for step in CANARY_STEPS:
        folder = f"manifests/overlays/canary/{mode}/{step}"
        response = apply(crd_server, named(folder, "InferenceService", "chat"), f"canary-{mode}")
        assert response.is_success, response.text
        spec = response.json()["spec"]
        canaries = spec.get("canary", [{}])
        weights.append(spec["predictor"].get("canaryTrafficPercent", canaries[0].get("trafficPercent")))
    assert weights == [None, 0, 10, 50, None, 0 if mode == "knative" else None]


def test_another_owner_of_a_field_is_noticed(crd_server: CrdServer) -> None:
    """What a rollout tool meets when somebody else set the weight."""
    item = named("manifests/overlays/canary/standard/3-canary-10", "InferenceService", "chat")
    response = apply(crd_server, item, "owners", field_manager="pipeline")
    assert response.is_success, response.text
    more = changed(item, lambda copy: copy["spec"]["canary"][0].update(trafficPercent=50))
    path = f"{collection(item, 'owners')}/chat"
    response = crd_server.apply(path, more, field_manager="rollout", force=False)
    assert response.status_code == 409
    assert "pipeline" in response.text


def test_knative_service_of_a_predictor_is_accepted(crd_server: CrdServer) -> None:
    """The Knative Service that KServe makes of the InferenceService, as far as its fields go."""
    predictor = named("manifests/overlays/scale-to-zero/knative", "InferenceService", "chat")["spec"][
        "predictor"
    ]
    template = predictor_pod(predictor) | {
        "timeoutSeconds": predictor["timeout"],
        "containerConcurrency": predictor["containerConcurrency"],
    }
    service = {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "metadata": {"name": "chat-predictor"},
        "spec": {"template": {"spec": template}},
    }
    assert apply(crd_server, service, "knative").is_success
    broken = changed(service, lambda copy: copy["spec"]["template"]["spec"].update(timeoutSeconds="10m"))
    assert not apply(crd_server, broken, "knative").is_success
