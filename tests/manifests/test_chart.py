"""The Helm chart says what the kustomize folders say, and what its values change is as valid.

Rendered by Helm itself, which Go builds once per machine; that takes minutes, so those tests are slow ones.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import crd_schemas
import jsonschema
import kserve_sdk
import kubernetes_go
import kubernetes_validate
import pytest
import yaml
from admission_rules import problems
from crd_definitions import CRD_FOLDER
from kubernetes_validate.utils import SchemaNotFoundError, all_versions
from rendered_manifests import Object, load_yaml, named, render

from scripts.chart_files import FILES, SOURCES, chart_files

CHART = FILES.parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kserve-llamacpp" / "helm"
HELM = "helm.sh/helm/v3/cmd/helm@v3.22.0"
KUBERNETES = "1.30.0"
OWN_LABELS = {"app.kubernetes.io/instance", "app.kubernetes.io/managed-by", "helm.sh/chart"}
EVERYTHING = {
    "runtimes": {"cuda": {"enabled": True}},
    "inferenceService": {"enabled": True},
    "monitoring": {"enabled": True},
    "networkPolicies": {"enabled": True},
}


def test_the_files_are_what_kustomize_renders() -> None:
    wanted = chart_files()
    assert {path.name: path.read_text() for path in FILES.glob("*.yaml")} == wanted, "run make chart"
    assert wanted.keys() == {f"{name}.yaml" for names in SOURCES.values() for name in names.values()}


def test_the_values_match_their_schema_and_it_knows_every_one() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())
    jsonschema.validate(values, schema)
    assert list(schema_gaps(values, schema, schema)) == []


def schema_gaps(values: Any, schema: Any, root: Any, path: str = "") -> Any:
    """Values that the schema doesn't know, and names that it knows and no value has."""
    if "$ref" in schema:
        schema = root["definitions"][schema["$ref"].rpartition("/")[2]]
    if not isinstance(values, dict) or "properties" not in schema or path.endswith("resources"):
        return
    known = schema["properties"].keys() - {"global"}
    yield from (f"{path}.{name}" for name in known ^ values.keys())
    for name in known & values.keys():
        yield from schema_gaps(values[name], schema["properties"][name], root, f"{path}.{name}")


@cache
def helm() -> str:
    """The helm on the path, else one that Go builds of its source."""
    if found := shutil.which("helm"):
        return found
    if not kubernetes_go.has_go():
        pytest.skip("there is neither helm nor go, which builds one")
    built = CACHE / "helm"
    if not built.exists():
        environment = os.environ | {"GOBIN": str(CACHE)}
        done = subprocess.run(
            ["nice", "go", "install", HELM], env=environment, capture_output=True, text=True
        )
        if done.returncode:
            pytest.skip(f"helm can't be built: {done.stderr[-300:]}")
    return str(built)


def template(values: Object, *, fails: bool = False) -> str:
    command = [helm(), "template", "release", str(CHART), "--namespace", "models", "--values", "-"]
    command += [
        "--kube-version",
        KUBERNETES,
    ]  # A helm that Go has built of its source takes itself for an old one.
    done = subprocess.run(command, input=yaml.safe_dump(values), capture_output=True, text=True, timeout=60)
    assert (done.returncode != 0) == fails, done.stderr
    return done.stderr if fails else done.stdout


def objects(values: Object) -> list[Object]:
    """What Helm renders, without the labels that say so."""
    found = [item for item in load_yaml(template(values)) if item]
    for item in found:
        labels = item["metadata"]["labels"]
        assert labels.keys() >= OWN_LABELS
        item["metadata"]["labels"] = {key: text for key, text in labels.items() if key not in OWN_LABELS}
        if not item["metadata"]["labels"]:
            del item["metadata"]["labels"]
    return found


def one(items: list[Object], kind: str) -> Object:
    (found,) = (item for item in items if item["kind"] == kind)
    return found


slow = pytest.mark.slow
long_enough = pytest.mark.timeout(1800)  # for the build


@slow
@long_enough
def test_the_default_is_the_folders_for_the_whole_cluster() -> None:
    expected = [*render("runtimes/kserve/cluster/cpu"), *render("manifests/storage")]
    assert sorted(objects({}), key=str) == sorted(expected, key=str)


@slow
@long_enough
def test_everything_is_what_the_folders_have() -> None:
    found = objects(EVERYTHING)
    expected = [
        *render("runtimes/kserve/cluster/cpu"),
        *render("runtimes/kserve/cluster/cuda"),
        *render("manifests/storage"),
        *render("manifests/base"),
        *render("manifests/overlays/monitoring"),
        named("manifests/overlays/secure", "NetworkPolicy", "default-deny"),
        named("manifests/overlays/secure", "NetworkPolicy", "chat"),
    ]
    for item in expected:
        if item["kind"] == "NetworkPolicy":
            del item["metadata"]["namespace"]
        assert item in found, item["metadata"]["name"]
    assert len(found) == len(expected)


CHANGED = {
    "imageRegistry": "registry.example:5000/team",
    "imageTag": "1.2.3",
    "runtimes": {
        "scope": "namespace",
        "cpu": {"args": ["--max_sequences=8"], "resources": {"limits": {"cpu": "4", "memory": "8Gi"}}},
    },
    "storageContainer": {"allowPatterns": ["*Q8_0.gguf"]},
    "inferenceService": {
        "enabled": True,
        "name": "talk",
        "storageUri": "pvc://models/chat",
        "runtime": "kserve-llamacpp",
        "maxReplicas": 3,
        "args": ["--ui"],
        "apiKeysSecret": "team-keys",
    },
    "networkPolicies": {"enabled": True, "gatewayNamespace": "istio-system"},
}


@slow
@long_enough
def test_values_reach_what_they_name() -> None:
    found = objects(CHANGED)
    container = one(found, "ServingRuntime")["spec"]["containers"][0]
    assert container["image"] == "registry.example:5000/team/kserve-llamacpp:1.2.3"
    assert container["args"][0] == "serve"
    assert container["args"][-1] == "--max_sequences=8"
    assert container["resources"] == {"limits": {"cpu": "4", "memory": "8Gi"}}
    (patterns,) = one(found, "ClusterStorageContainer")["spec"]["container"]["env"]
    assert patterns == {"name": "STORAGE_ALLOW_PATTERNS", "value": '["*Q8_0.gguf"]'}
    service = one(found, "InferenceService")
    predictor = service["spec"]["predictor"]
    assert (service["metadata"]["name"], predictor["serviceAccountName"]) == ("talk", "talk")
    assert one(found, "ServiceAccount")["metadata"]["name"] == "talk"
    assert (predictor["maxReplicas"], predictor["model"]["storageUri"]) == (3, "pvc://models/chat")
    assert predictor["model"]["args"] == ["--api_key_file=/etc/kserve-llamacpp/keys", "--ui"]
    assert predictor["volumes"][0]["secret"]["secretName"] == "team-keys"
    assert "storageContainerName" not in predictor
    policy = next(
        item for item in found if item["metadata"]["name"] == "talk" and item["kind"] == "NetworkPolicy"
    )
    assert policy["spec"]["podSelector"]["matchLabels"] == {"serving.kserve.io/inferenceservice": "talk"}
    assert "istio-system" in str(policy["spec"]["ingress"][0])


KNATIVE = {
    "inferenceService": {
        "enabled": True,
        "deploymentMode": "Knative",
        "minReplicas": 0,
        "apiKeysSecret": "keys",
    }
}


@slow
@long_enough
@pytest.mark.parametrize("values", [EVERYTHING, CHANGED, KNATIVE], ids=["everything", "changed", "knative"])
def test_what_helm_renders_is_valid(values: Object) -> None:
    """Held to KServe's definitions and SDK, its webhooks' rules, and Kubernetes' schemas."""
    for item in objects(values):
        key = (item["apiVersion"], item["kind"])
        if CRD_FOLDER.is_dir() and key in crd_schemas.schemas():
            assert crd_schemas.problems(item) == []
        if key in kserve_sdk.CLASSES:
            assert kserve_sdk.problems(item) == []
        if key in kubernetes_go.DECODED:
            assert kubernetes_go.decode(item) == []
        with suppress(SchemaNotFoundError):
            kubernetes_validate.validate(item, all_versions()[-1], strict=True)
        if item["kind"] == "InferenceService":
            assert list(problems(item)) == []


@slow
@long_enough
@pytest.mark.parametrize(
    ("values", "named_value"),
    [
        ({"inferenceServices": {}}, "inferenceServices"),
        ({"runtimes": {"scope": "galaxy"}}, "runtimes"),
        ({"runtimes": {"cpu": {"enabled": True, "args": ["max_sequences=8"]}}}, "args"),
        ({"inferenceService": {"minReplicas": -1}}, "minReplicas"),
        ({"inferenceService": {"storageUri": "models"}}, "storageUri"),
        ({"imageTag": "a b"}, "imageTag"),
    ],
)
def test_wrong_values_are_refused_by_name(values: Object, named_value: str) -> None:
    assert named_value in template(values, fails=True)


@slow
@long_enough
def test_helm_finds_nothing_to_complain_about() -> None:
    done = subprocess.run(
        [helm(), "lint", "--strict", str(CHART)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
