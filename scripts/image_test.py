"""Build the container image and hold it to what is promised of it.

    image_test.py MODEL.gguf           builds with buildah, runs with podman and runc, as root on Linux

It needs buildah, podman, runc, catatonit and uidmap, and debootstrap unless BASE_IMAGE names an image that
can be pulled. SSL_CERT_FILE, PIP_INDEX_URL and PIP_FIND_LINKS are passed on to the build. Progress goes to
stderr.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import tritonclient.grpc as triton
import yaml
from free_ports import free_ports
from image_build import IMAGE, MODELCAR, PODMAN, ROOT, build_image, build_modelcar, check_tools, output, say

RUN = ("--network", "host", "--ulimit", "nofile=4096:4096", "--ulimit", "nproc=4096:4096")
LIMITS = ("--read-only", "--tmpfs", "/tmp", "--user", "1000", "--cap-drop", "ALL")
LARGEST_MIB = 640
READY_SECONDS = 300.0
NOT_IN_THE_IMAGE = ("cc", "gcc", "g++", "clang", "cmake", "make", "ninja", "git", "curl")
MESSAGES = [
    {"role": "system", "content": "Answer in one sentence."},
    {"role": "user", "content": "What is the capital of France?"},
]


@dataclass(frozen=True, slots=True)
class Running:
    """A container that serves the model `chat`.

    Attributes:
        name: the container's.
        process: the server's process id, as this machine counts.
        http: a client of its HTTP port.
        grpc_port: its gRPC port.
    """

    name: str
    process: int
    http: httpx.Client
    grpc_port: int


def check_contents() -> None:
    """Size, layers, user, labels; no compiler, no model, no package installer."""
    (image,) = json.loads(output(*PODMAN, "image", "inspect", IMAGE))
    history = json.loads(output(*PODMAN, "history", "--format", "json", IMAGE))
    layers = [round(layer["size"] / 2**20) for layer in reversed(history) if layer["size"] > 2**16]
    size = image["Size"] / 2**20
    say(f"size: {size:.0f} MiB; layers of {', '.join(map(str, layers))} MiB")
    assert size < LARGEST_MIB, f"larger than {LARGEST_MIB} MiB"
    assert image["Config"]["User"] == "1000:1000", image["Config"]["User"]
    labels = image["Config"]["Labels"]
    assert labels["org.opencontainers.image.title"] == "kserve-llamacpp"
    assert re.fullmatch(r"unknown|[0-9a-f]{40}", labels["org.opencontainers.image.revision"])
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    script = f"""
        for tool in {" ".join(NOT_IN_THE_IMAGE)}; do command -v $tool; done
        find / -xdev -name '*.gguf' -o -path '*/site-packages/pip' -o -path '/run/secrets/*' 2> /dev/null
        find / -xdev -path /proc -prune -o -path /tmp -prune -o ! -type l -writable -print 2> /dev/null
        cd /opt/kserve-llamacpp
        for file in sbom.cdx.json licences.txt LICENSE NOTICE; do test -s $file || echo no $file; done
        echo variants: $(find /opt -name 'libggml-cpu-*.so' | wc -l)
    """
    *found, variants = output(
        *PODMAN, "run", "--rm", *RUN, *LIMITS, "--entrypoint", "sh", IMAGE, "-c", script
    ).splitlines()
    assert not found, f"in the image: {found}"
    say(f"CPU {variants}")
    assert int(variants.split()[1]) >= 10


@contextmanager
def serving(*options: str, arguments: tuple[str, ...] = ()) -> Iterator[Running]:
    """The image with the runtime's arguments; `options` go to podman, `arguments` to the server."""
    port, grpc_port = free_ports(2)
    runtime = yaml.safe_load((ROOT / "runtimes/kserve/base/runtime.yaml").read_text())
    (container,) = runtime["spec"]["containers"]
    given = [argument.replace("{{.Name}}", "chat") for argument in container["args"]]
    given += ["--context_tokens=4096", f"--http_port={port}", f"--grpc_port={grpc_port}", *arguments]
    name = f"kserve-llamacpp-test-{os.getpid()}"
    output(*PODMAN, "run", "--detach", "--name", name, *RUN, *LIMITS, *options, IMAGE, *given)
    try:
        process = int(output(*PODMAN, "inspect", "--format", "{{.State.Pid}}", name))
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=300) as http:
            wait_ready(name, http)
            yield Running(name, process, http, grpc_port)
    finally:
        remove(name)


def remove(name: str) -> None:
    subprocess.run([*PODMAN, "rm", "--force", "--time", "5", name], capture_output=True, check=False)


def wait_ready(name: str, http: httpx.Client) -> None:
    started = time.monotonic()
    while time.monotonic() - started < READY_SECONDS:
        try:
            if http.get("/v2/models/chat/ready").status_code == httpx.codes.OK:
                say(f"ready after {time.monotonic() - started:.1f} s")
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    logs = subprocess.run([*PODMAN, "logs", name], capture_output=True, text=True, check=False)
    sys.exit(f"not ready after {READY_SECONDS:.0f} s:\n{logs.stdout[-2000:]}{logs.stderr[-2000:]}")


def check_confinement(server: Running) -> None:
    """Not root, no capabilities, a root file system that can't be written."""
    status = Path(f"/proc/{server.process}/status").read_text()
    assert re.search(r"^Uid:\s+1000\s", status, re.M), status
    assert re.search(r"^CapEff:\s+0+$", status, re.M), status
    mounts = Path(f"/proc/{server.process}/mountinfo").read_text().splitlines()
    (root,) = (fields for line in mounts if (fields := line.split())[4] == "/")
    assert "ro" in root[5].split(","), root
    libraries = set(re.findall(r"libggml-cpu-\w+\.so", Path(f"/proc/{server.process}/maps").read_text()))
    say(f"CPU backend: {', '.join(sorted(libraries))}")
    assert len(libraries) == 1, "no CPU backend, or several"


def check_probes(server: Running) -> None:
    """The paths that the manifests probe and scrape."""
    for path in ("/v2/models/chat/ready", "/v2/health/live", "/metrics"):
        assert server.http.get(path).status_code == httpx.codes.OK, path
    assert "kserve_llamacpp_build_info" in server.http.get("/metrics").text


def check_protocols(server: Running) -> None:
    """OpenAI streamed, V1, V2 over REST and gRPC, each with an answer that is right."""
    for protocol, ask in {"openai": ask_openai, "v1": ask_v1, "v2": ask_v2, "grpc": ask_grpc}.items():
        text = ask(server)
        say(f"{protocol}: {text!r}")
        assert "Paris" in text, protocol


def ask_openai(server: Running) -> str:
    body = {"model": "chat", "messages": MESSAGES, "max_tokens": 16, "temperature": 0, "stream": True}
    events = posted(server.http, "/v1/chat/completions", body).removesuffix("\n\n").split("\n\n")
    assert events.pop() == "data: [DONE]"
    chunks = [json.loads(event.removeprefix("data: "))["choices"][0]["delta"] for event in events]
    assert len(chunks) > 4, "not streamed token by token"
    return "".join(chunk.get("content") or "" for chunk in chunks)


def ask_v1(server: Running) -> str:
    body = {"instances": [{"messages": MESSAGES, "max_tokens": 16, "temperature": 0}]}
    (prediction,) = json.loads(posted(server.http, "/v1/models/chat:predict", body))["predictions"]
    return str(prediction["text"])


def ask_v2(server: Running) -> str:
    tensors = [
        {"name": name, "shape": [1], "datatype": "BYTES", "data": [message["content"]]}
        for name, message in zip(("system", "prompt"), MESSAGES, strict=True)
    ]
    body = {"inputs": tensors, "parameters": {"max_tokens": 16, "temperature": 0}}
    outputs = json.loads(posted(server.http, "/v2/models/chat/infer", body))["outputs"]
    return str(next(tensor["data"][0] for tensor in outputs if tensor["name"] == "text"))


def ask_grpc(server: Running) -> str:
    inputs = []
    for name, message in zip(("system", "prompt"), MESSAGES, strict=True):
        tensor = triton.InferInput(name, [1], "BYTES")
        tensor.set_data_from_numpy(np.array([message["content"].encode()], dtype=np.object_))
        inputs.append(tensor)
    with triton.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
        answer = client.infer("chat", inputs, parameters={"max_tokens": 16, "temperature": 0})
        return bytes(answer.as_numpy("text")[0]).decode()


def posted(http: httpx.Client, path: str, body: dict[str, Any]) -> str:
    response = http.post(path, json=body)
    assert response.status_code == httpx.codes.OK, response.text
    return response.text


def check_drain(server: Running) -> None:
    """SIGTERM during a stream: no new requests, the stream is finished, the process ends with status 0."""
    tokens = 150
    parameters = {"max_tokens": tokens, "temperature": 0, "ignore_eos": True}
    body = {"text_input": "Count from one to one hundred: one, two,", "parameters": parameters}
    answers: list[str] = []
    begun = threading.Event()

    def read_stream() -> None:
        with server.http.stream("POST", "/v2/models/chat/generate_stream", json=body) as response:
            for line in response.iter_lines():
                begun.set()
                answers.append(line)

    client = threading.Thread(target=read_stream)
    client.start()
    assert begun.wait(60), "no first token"
    os.kill(server.process, signal.SIGTERM)
    time.sleep(0.2)
    seen = len(answers)
    refused = httpx.get(f"{server.http.base_url}/v2/models/chat/ready")
    client.join(120)
    events = [json.loads(line.removeprefix("data: ")) for line in answers if line]
    assert seen < len(answers), "the stream ended before the signal; take a slower model"
    assert refused.status_code == httpx.codes.SERVICE_UNAVAILABLE, refused.status_code
    assert not any("error" in event for event in events), events[-1]
    assert len(events) > tokens * 0.9, f"{len(events)} events of {tokens} tokens"
    exit_status = output(*PODMAN, "wait", server.name)
    say(f"drained: {len(events) - seen} of {len(events)} events after SIGTERM; exit status {exit_status}")
    assert exit_status == "0"


def check_modelcar(model: Path) -> None:
    """A model from an image, the way KServe mounts it: a link to the sidecar's files through /proc.

    The link comes after the server has started, which KServe announces by MODEL_INIT_MODE.
    """
    build_modelcar(model)
    car = f"kserve-llamacpp-modelcar-{os.getpid()}"
    with tempfile.TemporaryDirectory(prefix="kserve-llamacpp-mnt-") as shared:
        os.chmod(shared, 0o777)
        volume = ("--volume", f"{shared}:/mnt")
        link = "sleep 8 && ln -sf /proc/$$/root/models /mnt/models && sleep infinity"
        output(*PODMAN, "run", "--detach", "--name", car, *RUN, *LIMITS, *volume, MODELCAR, "sh", "-c", link)
        try:
            options = (*volume, "--pid", f"container:{car}", "--env", "MODEL_INIT_MODE=async")
            with serving(*options) as server:
                assert "Paris" in ask_openai(server)
        finally:
            remove(car)
    say("a modelcar's model is served")


def check_pod(model: Path) -> None:
    """The Pod of the plain deployment through `podman play kube`.

    Its probes are left out, since podman runs them as curl inside the container, and the image has none; the
    download is replaced by the file.
    """
    manifest = ROOT / "manifests/overlays/plain-deployment/workload/deployment.yaml"
    spec = yaml.safe_load(manifest.read_text())["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    port, grpc_port = free_ports(2)
    container["image"] = IMAGE
    container["args"][1] = f"/models/{model.name}"
    container["args"] += [f"--http_port={port}", f"--grpc_port={grpc_port}", "--context_tokens=4096"]
    for field in ("startupProbe", "readinessProbe", "livenessProbe", "lifecycle", "ports"):
        del container[field]
    del spec["topologySpreadConstraints"]
    with tempfile.TemporaryDirectory(prefix="kserve-llamacpp-pod-") as folder:
        scratch = Path(folder, "tmp")
        scratch.mkdir()
        scratch.chmod(0o777)
        paths = {"models": model.parent, "tmp": scratch}
        spec["volumes"] = [{"name": n, "hostPath": {"path": str(path)}} for n, path in paths.items()]
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "chat"}, "spec": spec}
        manifest = Path(folder, "pod.yaml")
        manifest.write_text(yaml.safe_dump(pod))
        configuration = Path(folder, "containers.conf")
        limits = '["nofile=4096:4096", "nproc=4096:4096"]'
        configuration.write_text(f'[containers]\nnetns = "host"\ndefault_ulimits = {limits}\n')
        os.environ["CONTAINERS_CONF"] = str(configuration)
        try:
            output(*PODMAN, "play", "kube", "--network", "host", manifest)
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=300) as http:
                wait_ready("chat-chat", http)
                assert "Paris" in ask_openai(Running("chat-chat", 0, http, grpc_port))
        finally:
            subprocess.run([*PODMAN, "play", "kube", "--down", manifest], capture_output=True, check=False)
            del os.environ["CONTAINERS_CONF"]
    say("the plain deployment's pod runs")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path, help="a GGUF file to serve")
    parser.add_argument("--no-build", action="store_true", help="test the image that is there")
    arguments = parser.parse_args()
    model = arguments.model.resolve(strict=True)
    check_tools()
    if not arguments.no_build:
        build_image()
    check_contents()
    with serving("--volume", f"{model}:/mnt/models/{model.name}:ro") as server:
        check_confinement(server)
        check_probes(server)
        check_protocols(server)
        check_drain(server)
    check_modelcar(model)
    check_pod(model)
    say("1 passed, 0 failed")


if __name__ == "__main__":
    main()
