"""Every object of every folder, against everything on this machine that knows its kind."""

from __future__ import annotations

import crd_schemas
import interceptor_schema
import kserve_sdk
import kubernetes_go
import kubernetes_validate
import pytest
from admission_rules import MODE, clashes, knative_problems, problems
from crd_definitions import CRD_FOLDER, NO_CRDS
from kubernetes_validate.utils import SchemaNotFoundError, all_versions
from rendered_manifests import all_objects, kustomizations, one_of_each_kind, pods, predictor_pod, render

OLDEST_KUBERNETES = "1.30"  # the first where the sleep of preStop needs no feature gate

needs_crds = pytest.mark.skipif(not CRD_FOLDER.is_dir(), reason=NO_CRDS)
needs_go = pytest.mark.skipif(not kubernetes_go.has_go(), reason=kubernetes_go.NO_GO)


def builtin_kinds() -> set[tuple[str, str]]:
    """The kinds kubernetes-validate knows; of others it says so and nothing more."""
    known = set()
    for key, item in one_of_each_kind().items():
        try:
            kubernetes_validate.validate(item, all_versions()[-1], strict=True)
        except SchemaNotFoundError:
            continue
        except kubernetes_validate.ValidationError:
            pass  # for the test that names the mistake
        known.add(key)
    return known


def mode(service: dict) -> str:
    return service["metadata"]["annotations"][MODE]


@pytest.mark.parametrize("folder", kustomizations())
def test_folder_renders_to_distinct_objects(folder: str) -> None:
    names = [
        (item["kind"], item["metadata"].get("namespace"), item["metadata"]["name"]) for item in render(folder)
    ]
    assert names
    assert len(set(names)) == len(names)


def test_every_kind_is_checked_by_something() -> None:
    """A kind that nothing knows would pass every other test."""
    known = kserve_sdk.CLASSES.keys() | kubernetes_go.DECODED | interceptor_schema.SCHEMAS.keys()
    by_crd = {
        ("serving.kserve.io/v1alpha1", "ClusterStorageContainer"),
        ("serving.kserve.io/v1alpha1", "LocalModelCache"),
        ("keda.sh/v1alpha1", "ScaledObject"),
        ("gateway.networking.k8s.io/v1", "HTTPRoute"),
    }
    if CRD_FOLDER.is_dir():
        assert by_crd <= crd_schemas.schemas().keys()
    unknown = one_of_each_kind().keys() - builtin_kinds() - known - by_crd
    assert not unknown


@pytest.mark.parametrize("version", [OLDEST_KUBERNETES, all_versions()[-1]])
def test_builtin_kinds_match_kubernetes(version: str) -> None:
    kinds = builtin_kinds()
    distinct = {str(i): i for _, i in all_objects() if (i["apiVersion"], i["kind"]) in kinds}
    assert len(distinct) > 20
    for item in distinct.values():
        kubernetes_validate.validate(item, version, strict=True)


@needs_crds
def test_custom_resources_match_their_definitions() -> None:
    known = crd_schemas.schemas()
    checked = [(f, item) for f, item in all_objects() if (item["apiVersion"], item["kind"]) in known]
    assert {item["kind"] for _, item in checked} >= {
        "InferenceService",
        "ServingRuntime",
        "ClusterServingRuntime",
        "ClusterStorageContainer",
        "LocalModelCache",
        "ScaledObject",
        "HTTPRoute",
    }
    wrong = {(f, item["kind"]): found for f, item in checked if (found := crd_schemas.problems(item))}
    assert not wrong


def test_kserve_objects_match_the_sdk() -> None:
    checked = [(f, i) for f, i in all_objects() if (i["apiVersion"], i["kind"]) in kserve_sdk.CLASSES]
    assert len({item["kind"] for _, item in checked}) == len(kserve_sdk.CLASSES)
    wrong = {(f, item["kind"]): found for f, item in checked if (found := kserve_sdk.problems(item))}
    assert not wrong


@needs_go
def test_operators_objects_decode_strictly() -> None:
    checked = [(f, i) for f, i in all_objects() if (i["apiVersion"], i["kind"]) in kubernetes_go.DECODED]
    assert len({item["kind"] for _, item in checked}) == len(kubernetes_go.DECODED)
    assert not {(f, item["kind"]): found for f, item in checked if (found := kubernetes_go.decode(item))}


def test_interceptor_routes_match_their_schema() -> None:
    routes = all_objects("InterceptorRoute")
    assert routes
    assert not [found for _, item in routes for found in interceptor_schema.problems(item)]


def test_kserves_webhooks_would_accept_everything() -> None:
    wrong = {(f, i["metadata"]["name"]): found for f, i in all_objects() if (found := problems(i))}
    assert not wrong


def test_knative_takes_the_pods_of_its_mode() -> None:
    services = [item for _, item in all_objects("InferenceService") if mode(item) == "Knative"]
    assert len(services) >= 7
    for item in services:
        assert not knative_problems(predictor_pod(item["spec"]["predictor"]))


@pytest.mark.parametrize("scope", ["cluster", "namespaced"])
def test_runtimes_of_one_scope_can_be_installed_together(scope: str) -> None:
    installed = [item for variant in ("cpu", "cuda") for item in render(f"runtimes/kserve/{scope}/{variant}")]
    assert len(installed) == 2
    assert not clashes(installed)


@needs_go
@pytest.mark.parametrize("version", [f"v{OLDEST_KUBERNETES}", "latest"])
def test_pods_pass_pod_security_restricted(version: str) -> None:
    checked = {str(pod): (name, pod) for name, pod in pods()}  # many overlays lead to the same pod
    assert len(checked) >= 8
    wrong = {
        name: found for name, pod in checked.values() if (found := kubernetes_go.restricted(pod, version))
    }
    assert not wrong


@needs_go
def test_storage_initializer_passes_pod_security_restricted() -> None:
    ((_, container),) = all_objects("ClusterStorageContainer")
    assert not kubernetes_go.restricted({"containers": [container["spec"]["container"]]})


def test_every_container_has_requests_and_limits() -> None:
    for name, pod in pods():
        for container in pod["containers"]:
            resources = container["resources"]
            assert resources["requests"].keys() >= {"cpu", "memory"}, name
            assert resources["limits"]["memory"] == resources["requests"]["memory"], name


def test_written_folders_are_volumes_on_a_read_only_root() -> None:
    for name, pod in pods():
        (container,) = pod["containers"]
        assert container["securityContext"]["readOnlyRootFilesystem"] is True, name
        volumes = {volume["name"] for volume in pod["volumes"]}
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        assert "/tmp" in mounts, name
        assert set(mounts.values()) == volumes, name
