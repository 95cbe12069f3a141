"""What the manifests say about the program exists in it, and numbers that depend on each other fit."""

from __future__ import annotations

import inspect
import json
import re
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import httpx
import huggingface_hub.constants
import pytest
import typer
from prometheus_client.parser import text_string_to_metric_families
from rendered_manifests import (
    ROOT,
    SOURCES,
    Object,
    all_objects,
    named,
    pods,
    predictor_pod,
    walk,
)
from server_process import Server, running_server

from predictor import __version__
from predictor.cli import _settings, app
from predictor.serving.lifecycle import CLOSE_SECONDS
from predictor.settings import Settings, env_var, flag

METRIC = re.compile(r"kserve_llamacpp_\w+")
MODEL_NAME = "chat"
FILE_OPTIONS = {
    name
    for name, schema in Settings.model_json_schema()["properties"].items()
    if "file-path" in json.dumps(schema)
}
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")


def filled_in(value: Any) -> Any:
    """A document with the model's name where KServe puts it."""
    return json.loads(json.dumps(value).replace("{{.Name}}", MODEL_NAME))


def containers() -> list[tuple[str, Object]]:
    """Every container of ours, as it will run."""
    return [(name, filled_in(container)) for name, pod in pods() for container in pod["containers"]]


def settings_of(container: Object) -> Settings:
    """The container's arguments, read by the program itself.

    Files that they name have to lie in the container's volumes. They are not on this machine, so another file
    takes their place.
    """
    command, *arguments = container["args"]
    for number, argument in enumerate(arguments):
        name, _, path = argument.removeprefix("--").partition("=")
        if name in FILE_OPTIONS:
            assert any(path.startswith(m["mountPath"] + "/") for m in container["volumeMounts"]), argument
            arguments[number] = f"--{name}={__file__}"
    serve = typer.main.get_command(app).commands[command]  # type: ignore[attr-defined]
    options = serve.make_context(command, arguments).params
    return _settings(**options)


def seconds(duration: str) -> int:
    return int(duration[:-1]) * {"s": 1, "m": 60, "h": 3600}[duration[-1]]


def startup_seconds(container: Object) -> int:
    probe = container["startupProbe"]
    return probe["periodSeconds"] * probe["failureThreshold"]


def test_arguments_are_understood_by_the_program() -> None:
    assert len(containers()) > 20
    for name, container in containers():
        settings = settings_of(container)
        assert settings.model_name == (MODEL_NAME,), name
        assert settings.model == "/mnt/models" or settings.model.startswith("hf://"), name


def test_an_argument_the_program_lacks_is_noticed() -> None:
    _, container = containers()[0]
    with pytest.raises(Exception, match="no-such-option"):
        settings_of(container | {"args": [*container["args"], "--no_such_option=1"]})


def test_a_file_outside_of_the_volumes_is_noticed() -> None:
    _, container = containers()[0]
    with pytest.raises(AssertionError, match="chat_template"):
        settings_of(container | {"args": [*container["args"], "--chat_template=/etc/passwd"]})


def test_keys_are_wanted_from_callers_and_not_from_probes(model_path: Path, tmp_path: Path) -> None:
    """The arguments of the secure overlay on a real server."""
    folder = "manifests/overlays/secure"
    predictor = named(folder, "InferenceService", MODEL_NAME)["spec"]["predictor"]
    (argument,) = predictor["model"]["args"]
    (volume,) = predictor["volumes"]
    command = (ROOT / folder / "kustomization.yaml").read_text()
    name, _, path = argument.partition("=")
    key = "0123456789abcdef0123456789abcdef"
    (tmp_path / Path(path).name).write_text(key + "\n")
    # What the header of the overlay says makes a Secret with this name and a file with this name.
    assert f"create secret generic {volume['secret']['secretName']} " in command
    assert f"--from-file={Path(path).name}\n" in command
    (container,) = predictor_pod(predictor)["containers"]
    probed = {container[kind]["httpGet"]["path"] for kind in PROBES}
    with running_server(model_path, tmp_path / "log", f"{name}={tmp_path / Path(path).name}") as server:
        for open_path in probed | {"/metrics"}:
            answer = httpx.get(server.http_url + open_path.replace("{{.Name}}", server.model_name))
            assert answer.status_code == httpx.codes.OK, open_path
        body = {"model": server.model_name, "prompt": "Hello", "max_tokens": 1}
        address = f"{server.http_url}/v1/completions"
        assert httpx.post(address, json=body).status_code == httpx.codes.UNAUTHORIZED
        allowed = httpx.post(address, json=body, headers={"authorization": f"Bearer {key}"}, timeout=60)
        assert allowed.status_code == httpx.codes.OK


def test_environment_variables_are_read_by_the_program() -> None:
    ours = {env_var(field) for field in Settings.model_fields}
    hub = set(re.findall(r"HF_\w+", inspect.getsource(huggingface_hub.constants)))
    assert "HF_HOME" in hub
    for name, container in containers():
        for variable in container.get("env", []):
            assert variable["name"] in ours | hub, name


def test_ports_are_the_ones_the_program_listens_on() -> None:
    for name, container in containers():
        settings = settings_of(container)
        listening = {settings.http_port, settings.grpc_port if settings.enable_grpc else settings.http_port}
        ports = {port.get("name", "http"): port["containerPort"] for port in container["ports"]}
        assert ports.get("http") == settings.http_port, name
        assert set(ports.values()) <= listening, name
        for probe in (container[kind]["httpGet"] for kind in PROBES):
            assert ports.get(probe["port"], probe["port"]) == settings.http_port, name
    http_port, grpc_port = (Settings.model_fields[f"{kind}_port"].default for kind in ("http", "grpc"))
    for folder, service in all_objects("Service"):
        by_name = {"http": http_port, "grpc": grpc_port}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= by_name.keys(), folder
    for _, monitor in all_objects("PodMonitor"):
        assert monitor["spec"]["podMetricsEndpoints"][0]["portNumber"] == http_port
    for _, policy in all_objects("NetworkPolicy"):
        for rule in policy["spec"].get("ingress", []):
            assert {port["port"] for port in rule["ports"]} == {http_port}


def test_paths_exist_on_the_server(server: Server) -> None:
    paths = {
        container[kind]["httpGet"]["path"].replace(f"/{MODEL_NAME}/", f"/{server.model_name}/")
        for _, container in containers()
        for kind in PROBES
    }
    paths |= {
        mapping[key]
        for _, item in all_objects()
        for mapping in walk(item)
        for key in ("prometheus.kserve.io/path", "prometheus.io/path")
        if key in mapping
    }
    paths |= {item["spec"]["podMetricsEndpoints"][0]["path"] for _, item in all_objects("PodMonitor")}
    assert paths == {f"/v2/models/{server.model_name}/ready", "/v2/health/live", "/metrics"}
    for path in paths:
        assert httpx.get(server.http_url + path).status_code == httpx.codes.OK, path


def test_annotated_ports_are_the_http_port() -> None:
    annotated = [
        mapping[key]
        for _, item in all_objects()
        for mapping in walk(item)
        for key in ("prometheus.kserve.io/port", "prometheus.io/port")
        if key in mapping
    ]
    assert set(annotated) == {str(Settings.model_fields["http_port"].default)}


def test_metrics_in_queries_exist_on_the_server(server: Server) -> None:
    text = httpx.get(f"{server.http_url}/metrics").text
    exist = {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}
    used = {name: folder for folder, item in all_objects() for name in METRIC.findall(json.dumps(item))}
    assert len(used) >= 9
    assert not {name: folder for name, folder in used.items() if name not in exist}


def test_label_values_in_queries_exist_on_the_server(server: Server) -> None:
    text = httpx.get(f"{server.http_url}/metrics").text
    reasons = set(re.findall(r'finished_reason=\\*"(\w+)', json.dumps([item for _, item in all_objects()])))
    assert reasons == {"error"}
    for reason in reasons:
        assert f'finished_reason="{reason}"' in text


def test_flags_named_in_texts_exist() -> None:
    known = {flag(field) for field in Settings.model_fields} | {"--from-literal", "--from-file"}
    for path in (path for source in SOURCES for path in source.rglob("*.yaml")):
        assert set(re.findall(r"--[a-z]+(?:-[a-z]+)+", path.read_text())) <= known, path


def test_comments_state_the_real_defaults() -> None:
    texts = [path.read_text() for source in SOURCES for path in source.rglob("*.yaml")]
    stated = {pair for text in texts for pair in re.findall(r"--([a-z-]+) \((\d+)\)", text)}
    assert {name for name, _ in stated} == {"grace-period-seconds", "max-sequences"}
    for name, number in stated:
        assert Settings.model_fields[name.replace("-", "_")].default == int(number)


def test_pods_are_given_the_time_to_drain() -> None:
    for name, pod in pods():
        (container,) = pod["containers"]
        needed = settings_of(filled_in(container)).grace_period_seconds + CLOSE_SECONDS
        if "lifecycle" in container:
            before = container["lifecycle"]["preStop"]["sleep"]["seconds"]
            assert pod["terminationGracePeriodSeconds"] > before + needed, name
        else:
            assert "terminationGracePeriodSeconds" not in pod, f"{name}: requests still arrive after SIGTERM"


def test_knative_gives_the_time_to_load_to_drain_and_to_wait() -> None:
    for folder, service in all_objects("InferenceService"):
        annotations = service["metadata"]["annotations"]
        predictor = service["spec"]["predictor"]
        if annotations["serving.kserve.io/deploymentMode"] != "Knative":
            continue
        (container,) = predictor_pod(predictor)["containers"]
        settings = settings_of(filled_in(container))
        assert predictor["timeout"] > settings.grace_period_seconds + CLOSE_SECONDS, folder
        assert predictor.get("containerConcurrency", settings.max_sequences) == settings.max_sequences, folder
        if deadline := annotations.get("serving.knative.dev/progress-deadline"):
            assert seconds(deadline) > startup_seconds(container), folder


def test_deployments_do_not_give_up_while_a_model_loads() -> None:
    for folder, deployment in all_objects("Deployment"):
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        assert deployment["spec"]["progressDeadlineSeconds"] > startup_seconds(container), folder


def test_download_folder_is_a_volume() -> None:
    for folder, deployment in all_objects("Deployment"):
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        (home,) = (v["value"] for v in container["env"] if v["name"] == "HF_HOME")
        assert home in {mount["mountPath"] for mount in container["volumeMounts"]}, folder


def test_prefixes_are_kept_on_a_claim_that_holds_them() -> None:
    kept = 0
    for name, pod in pods():
        (container,) = pod["containers"]
        settings = settings_of(filled_in(container))
        if settings.prefix_cache_dir is None:
            continue
        kept += 1
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        (volume,) = (v for v in pod["volumes"] if v["name"] == mounts[str(settings.prefix_cache_dir)])
        claim = named(
            name.partition(":")[0], "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]
        )
        size = claim["spec"]["resources"]["requests"]["storage"]
        assert int(size.removesuffix("Gi")) * 1024 > settings.prefix_cache_dir_mib, name
        assert pod["securityContext"]["fsGroup"] == 1000, f"{name}: the volume can't be written"
    assert kept


def test_image_name_is_one() -> None:
    """So that one `kustomize edit set image` is enough for each variant."""
    images = {container["image"] for _, container in containers()}
    assert {image.partition(":")[0] for image in images} == {"kserve-llamacpp", "kserve-llamacpp-cuda"}
    assert all(image.endswith(f":{__version__}") for image in images)


def test_the_way_out_is_the_same_for_both_families_of_addresses() -> None:
    """A policy that allows the internet over IPv4 alone leaves pods of an IPv6 cluster without a model."""
    for folder, policy in all_objects("NetworkPolicy"):
        for rule in policy["spec"].get("egress") or []:
            blocks = {to["ipBlock"]["cidr"]: to["ipBlock"] for to in rule.get("to", []) if "ipBlock" in to}
            assert ("0.0.0.0/0" in blocks) == ("::/0" in blocks), folder
            for block in blocks.values():
                networks = [ip_network(block["cidr"]), *map(ip_network, block.get("except", []))]
                assert all(inner.subnet_of(networks[0]) for inner in networks[1:])
                assert len(networks) > 1, "the cluster's own addresses are left out"
