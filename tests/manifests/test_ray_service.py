"""The RayService against KubeRay's definition, Kubernetes' rules and Ray's own schema."""

from __future__ import annotations

import json
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import crd_schemas
import jsonschema
import kubernetes_go
import kubernetes_validate
import pytest
import yaml
from kubernetes_validate.utils import all_versions
from ray.serve.schema import ServeDeploySchema
from rendered_manifests import Object, render

from predictor.settings import Settings
from runtimes.ray_serve.application import build, most_replicas

FOLDERS = ["runtimes/ray_serve/kuberay/base", "runtimes/ray_serve/kuberay/autoscaling"]
OPERATOR = "github.com/ray-project/kuberay/ray-operator@v1.5.0"
SERVE_CONFIG = Path(__file__).resolve().parents[2] / "runtimes" / "ray_serve" / "serve.yaml"

needs_go = pytest.mark.skipif(not kubernetes_go.has_go(), reason=kubernetes_go.NO_GO)


def service(folder: str) -> Object:
    (item,) = render(folder)
    return item


def cluster(folder: str) -> Object:
    spec: Object = service(folder)["spec"]["rayClusterConfig"]
    return spec


def pods(folder: str) -> list[Object]:
    groups = [cluster(folder)["headGroupSpec"], *cluster(folder)["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def serve_config(folder: str) -> Object:
    config: Object = yaml.safe_load(service(folder)["spec"]["serveConfigV2"])
    return config


def settings(config: Object) -> Settings:
    (application,) = config["applications"]
    return Settings(**{"platform": "ray", **application["args"]})


@cache
def definition() -> Any:
    """The operator's Go module holds its CustomResourceDefinitions; Go checks what it downloads."""
    command = ["go", "mod", "download", "-json", OPERATOR]
    found = subprocess.run(command, cwd=kubernetes_go.SOURCE, capture_output=True, text=True, check=True)
    bases = Path(json.loads(found.stdout)["Dir"]) / "config" / "crd" / "bases"
    crd = yaml.load((bases / "ray.io_rayservices.yaml").read_text(), Loader=yaml.CSafeLoader)
    (version,) = (version for version in crd["spec"]["versions"] if version["name"] == "v1")
    return jsonschema.Draft202012Validator(crd_schemas.whole(version["schema"]["openAPIV3Schema"]))


@needs_go
@pytest.mark.parametrize("folder", FOLDERS)
def test_the_service_matches_kuberays_definition(folder: str) -> None:
    item = service(folder)
    assert [f"{error.json_path}: {error.message}" for error in definition().iter_errors(item)] == []
    item["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["replica"] = 1
    assert [error.json_path for error in definition().iter_errors(item)] != []


@pytest.mark.parametrize("folder", FOLDERS)
def test_its_pods_are_kubernetes_pods(folder: str) -> None:
    for spec in pods(folder):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": spec}
        kubernetes_validate.validate(pod, all_versions()[-1], strict=True)


@needs_go
@pytest.mark.parametrize("folder", FOLDERS)
def test_its_pods_are_restricted(folder: str) -> None:
    for spec in pods(folder):
        assert kubernetes_go.restricted(spec) == []


@pytest.mark.parametrize("folder", FOLDERS)
def test_ray_and_the_program_understand_the_configuration(folder: str) -> None:
    config = serve_config(folder)
    deployed = ServeDeploySchema.model_validate(config)
    given = settings(config)
    assert build(given) is not None
    (application,) = deployed.applications
    assert application.import_path == "runtimes.ray_serve:app"
    (engine,) = application.deployments
    assert engine.name == "engine"
    assert engine.user_config == {"model": given.model}


@pytest.mark.parametrize("folder", FOLDERS)
def test_ports_are_open_and_threads_fit(folder: str) -> None:
    config, (head, worker) = serve_config(folder), pods(folder)
    for pod in (head, worker):
        open_ports = {port["containerPort"] for port in pod["containers"][0]["ports"]}
        assert {config["http_options"]["port"], config["grpc_options"]["port"]} <= open_ports
    given, (group,) = settings(config), cluster(folder)["workerGroupSpecs"]
    assert given.threads == int(worker["containers"][0]["resources"]["limits"]["cpu"])
    assert most_replicas(given) <= group["maxReplicas"]
    assert given.grace_period_seconds + 10 <= worker["terminationGracePeriodSeconds"]


def test_the_autoscaling_one_can_scale_to_zero() -> None:
    folder = FOLDERS[1]
    assert settings(serve_config(folder)).min_replicas == 0
    assert cluster(folder)["enableInTreeAutoscaling"]
    assert cluster(folder)["workerGroupSpecs"][0]["minReplicas"] == 0


def test_the_file_for_serve_deploy_says_the_same() -> None:
    assert yaml.safe_load(SERVE_CONFIG.read_text()) == serve_config(FOLDERS[0])


@pytest.mark.parametrize("folder", FOLDERS)
def test_workers_are_ready_only_where_their_proxy_takes_requests(folder: str) -> None:
    """KubeRay asks Serve's /-/healthz for it; a probe of our own has to do the same, without wget."""
    port = serve_config(folder)["http_options"]["port"]
    for group in cluster(folder)["workerGroupSpecs"]:
        for container in group["template"]["spec"]["containers"]:
            command = container["readinessProbe"]["exec"]["command"]
            assert command[0] == "python"
            compile(command[-1], "probe", "exec")
            assert f":{port}/-/healthz" in command[-1]
            assert "/api/local_raylet_healthz" in command[-1]
            assert "wget" not in " ".join(command)
