"""Names, selectors and conditions that lead from one object to another lead to one that is there."""

from __future__ import annotations

import json
import re

import kubernetes_go
import pytest
from huggingface_hub.utils import filter_repo_objects
from rendered_manifests import ROOT, Object, all_objects, named, one_of_each_kind, predictors, render, walk

REFERENCES = ("scaleTargetRef", "targetRef", "target")
METRIC = re.compile(r"kserve_llamacpp_\w+")


def test_names_of_what_kserve_creates() -> None:
    """KServe calls the Deployment and the Service of a predictor NAME-predictor."""
    for folder in (
        "overlays/autoscaling/cpu",
        "overlays/autoscaling/keda",
        "overlays/scale-to-zero/standard",
    ):
        kinds = {item["kind"]: item for item in render(f"manifests/{folder}")}
        created = kinds["InferenceService"]["metadata"]["name"] + "-predictor"
        mappings = [mapping for item in kinds.values() for mapping in walk(item)]
        targets = [mapping[key] for mapping in mappings for key in REFERENCES if key in mapping]
        names = {target.get("name") or target.get("service") for target in targets} - {None}
        assert names == {created}, folder


def test_selectors_find_the_pods() -> None:
    for folder, item in all_objects("PodDisruptionBudget", "NetworkPolicy", "Service"):
        spec = item["spec"]
        selector = spec.get("selector", spec.get("podSelector"))
        wanted = selector.get("matchLabels", {}) if item["kind"] != "Service" else selector
        labels = [
            deployment["spec"]["template"]["metadata"]["labels"]
            for deployment in render(folder)
            if deployment["kind"] == "Deployment"
        ]
        labels += [
            {"serving.kserve.io/inferenceservice": service["metadata"]["name"]}
            for service in render(folder)
            if service["kind"] == "InferenceService"
        ]
        if labels:
            assert any(wanted.items() <= found.items() for found in labels), (folder, item["kind"])


def test_named_runtimes_storage_and_accounts_exist() -> None:
    found = {(item["kind"], item["metadata"]["name"]) for _, item in all_objects()}
    for folder, service in all_objects("InferenceService"):
        here = {(item["kind"], item["metadata"]["name"]) for item in render(folder)}
        for predictor in predictors(service):
            assert ("ServiceAccount", predictor["serviceAccountName"]) in here, folder
            if container := predictor.get("storageContainerName"):
                assert ("ClusterStorageContainer", container) in found, folder
            if runtime := predictor["model"].get("runtime"):
                assert ("ClusterServingRuntime", runtime) in found, folder
                assert ("ServingRuntime", runtime) in found, folder


def test_claims_that_volumes_name_exist() -> None:
    claimed = 0
    for folder, item in all_objects():
        here = {
            found["metadata"]["name"] for found in render(folder) if found["kind"] == "PersistentVolumeClaim"
        }
        for mapping in walk(item):
            if claim := mapping.get("persistentVolumeClaim"):
                claimed += 1
                assert claim["claimName"] in here, folder
            if str(uri := mapping.get("storageUri")).startswith("pvc://"):
                claimed += 1
                assert uri.split("/")[2] in here, folder
    assert claimed >= 2


def test_secrets_that_are_needed_are_named_with_their_command() -> None:
    """They are in no manifest, so the head of the kustomization has to say how to make them."""
    needed = set()
    for folder, item in all_objects():
        for mapping in walk(item):
            if secret := mapping.get("secretName"):
                needed.add((folder, secret))
        if item["kind"] == "ServiceAccount":
            needed |= {(folder, secret["name"]) for secret in item.get("secrets", [])}
        assert item["kind"] != "Secret", folder
    assert {name for _, name in needed} == {"chat-api-keys", "hf-token", "s3-credentials"}
    for folder, name in needed:
        text = (ROOT / folder / "kustomization.yaml").read_text()
        assert f"kubectl create secret generic {name} " in text, folder


def test_storage_container_matches_what_the_services_download() -> None:
    container = one_of_each_kind()["serving.kserve.io/v1alpha1", "ClusterStorageContainer"]["spec"]
    patterns = [re.compile(entry["regex"]) for entry in container["supportedUriFormats"]]
    uris = {
        predictor["model"]["storageUri"]
        for _, service in all_objects("InferenceService")
        for predictor in predictors(service)
        if "storageContainerName" in predictor
    }
    assert uris
    assert all(any(pattern.fullmatch(uri) for pattern in patterns) for uri in uris)
    assert not any(pattern.fullmatch("hf://Qwen/Qwen2.5-0.5B-Instruct") for pattern in patterns)


def test_storage_container_lets_one_quantisation_through() -> None:
    """The hub's own matching, on the file names that the repositories have."""
    container = one_of_each_kind()["serving.kserve.io/v1alpha1", "ClusterStorageContainer"]["spec"][
        "container"
    ]
    (patterns,) = (v["value"] for v in container["env"] if v["name"] == "STORAGE_ALLOW_PATTERNS")
    files = [
        "README.md",
        "qwen2.5-0.5b-instruct-q4_0.gguf",
        "qwen2.5-0.5b-instruct-q4_k_m.gguf",
        "qwen2.5-0.5b-instruct-q8_0.gguf",
        "Model-Q4_0.gguf",
        "Model-Q4_0_4_4.gguf",
        "model-q4_0-00001-of-00002.gguf",
    ]
    kept = filter_repo_objects(files, allow_patterns=json.loads(patterns))
    assert list(kept) == [files[1], files[4], files[6]]


@pytest.mark.skipif(not kubernetes_go.has_go(), reason=kubernetes_go.NO_GO)
@pytest.mark.parametrize(
    ("body", "service"),
    [
        ({"instances": [{"prompt": "Hi", "max_tokens": 500}]}, "chat-large"),
        ({"instances": [{"prompt": "Hi", "max_tokens": 20}]}, "chat-small"),
        ({"instances": [{"prompt": "Hi"}, {"prompt": "Ho", "max_tokens": 256}]}, "chat-large"),
        ({"instances": ["Hi"]}, "chat-small"),
        ({"inputs": []}, None),
    ],
)
def test_graph_routes_by_the_length_asked_for(body: Object, service: str | None) -> None:
    steps = named("manifests/overlays/multi-model", "InferenceGraph", "chat")["spec"]["nodes"]["root"][
        "steps"
    ]
    matching = [s["serviceName"] for s in steps if kubernetes_go.condition_holds(s["condition"], body)]
    assert next(iter(matching), None) == service


def test_graph_leads_to_services_of_the_v1_protocol() -> None:
    folder = "manifests/overlays/multi-model"
    for step in named(folder, "InferenceGraph", "chat")["spec"]["nodes"]["root"]["steps"]:
        service = named(folder, "InferenceService", step["serviceName"])
        assert service["spec"]["predictor"]["model"]["protocolVersion"] == "v1"


def test_dashboard_is_whole() -> None:
    config = named("manifests/overlays/monitoring", "ConfigMap", "kserve-llamacpp-dashboard")
    dashboard = json.loads(config["data"]["kserve-llamacpp.json"])
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"]) >= 9
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    for panel in dashboard["panels"]:
        assert panel["targets"], panel["title"]
        for target in panel["targets"]:
            used = set(re.findall(r"\$(\w+)", target["expr"]))
            assert used - {"__rate_interval"} <= variables, panel["title"]
            assert METRIC.search(target["expr"]), panel["title"]


def test_folders_that_the_guide_names_exist() -> None:
    page = (ROOT / "docs" / "kubernetes.md").read_text()
    named_folders = set(re.findall(r"(?:manifests|runtimes)/[\w./-]*\w", page)) - {"manifests/check.py"}
    overlays = re.findall(r"^\| `([\w/-]+)` \|", page, re.M)
    assert len(named_folders) > 12
    assert len(overlays) == 7
    for path in named_folders | {f"manifests/overlays/{overlay}" for overlay in overlays}:
        assert (ROOT / path).exists(), path
