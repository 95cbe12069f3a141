"""Build the container image and hold it to what is promised of it.

    image_test.py MODEL.gguf           builds with buildah, runs with podman and runc, as root on Linux

It needs buildah, podman, runc, catatonit and uidmap, and debootstrap unless BASE_IMAGE names an image that
can be pulled. SSL_CERT_FILE, PIP_INDEX_URL and PIP_FIND_LINKS are passed on to the build. Progress goes to
stderr.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kserve-llamacpp"
IMAGE = "localhost/kserve-llamacpp:test"
DEBIAN_IMAGES = {
    "localhost/kserve-llamacpp-debian:bookworm": "ca-certificates,libgomp1,python3",
    "localhost/kserve-llamacpp-debian-build:bookworm": "ca-certificates,g++,python3,python3-venv",
}
STORAGE = ["--storage-driver", "vfs"]
# crun, the default network and the default limits need rights that build machines often lack.
PODMAN = ["podman", *STORAGE, "--runtime", "runc"]
RUN = ["--network", "host", "--ulimit", "nofile=4096:4096", "--ulimit", "nproc=4096:4096"]
LIMITS = ["--read-only", "--tmpfs", "/tmp", "--user", "1000", "--cap-drop", "ALL"]
LARGEST_MIB = 1024
READY_SECONDS = 120.0
COMPILERS = ("cc", "gcc", "g++", "clang", "cmake", "make", "ninja")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def output(*command: str | Path) -> str:
    """What a command prints; its end where it fails."""
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{result.stderr[-2000:]}")
    return result.stdout.strip()


def check_tools() -> None:
    needed = ["buildah", "podman", "runc", *([] if "BASE_IMAGE" in os.environ else ["debootstrap"])]
    missing = [tool for tool in needed if shutil.which(tool) is None]
    if missing:
        sys.exit(f"not installed: {', '.join(missing)} (Debian: apt-get install {' '.join(missing)})")


def base_images() -> tuple[str, str]:
    """What the last and the build stage start from: BASE_IMAGE, or a Debian 12 made here once per machine."""
    if given := os.environ.get("BASE_IMAGE"):
        return given, os.environ.get("BUILD_IMAGE", given)
    there = output("buildah", *STORAGE, "images", "--format", "{{.Name}}:{{.Tag}}").split()
    for name, packages in DEBIAN_IMAGES.items():
        if name not in there:
            make_debian(name, packages)
    last, build_stage = DEBIAN_IMAGES
    return last, build_stage


def make_debian(name: str, packages: str) -> None:
    say(f"making {name} with debootstrap, a few minutes")
    site = output("apt-get", "indextargets", "--format", "$(SITE)").split()[0]
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="debian-", dir=CACHE) as folder:
        tree = Path(folder, "root")
        output("debootstrap", "--variant=minbase", f"--include={packages}", "bookworm", tree, site)
        container = output("buildah", *STORAGE, "from", "scratch")
        output("buildah", *STORAGE, "add", container, tree, "/")
        output("buildah", *STORAGE, "commit", "--rm", container, name)


def build() -> None:
    last, build_stage = base_images()
    say("building the image; llama.cpp is compiled once per instruction set, half an hour on two cores")
    command = ["buildah", *STORAGE, "bud", "--isolation", "chroot", "--network", "host", "--layers"]
    command += ["--build-arg", f"BASE_IMAGE={last}", "--build-arg", f"BUILD_IMAGE={build_stage}"]
    for name in ("PIP_INDEX_URL", "PIP_FIND_LINKS"):
        if name in os.environ:
            command += ["--build-arg", f"{name}={os.environ[name]}"]
    for path in filter(os.path.isdir, os.environ.get("PIP_FIND_LINKS", "").split()):
        command += ["--volume", f"{path}:{path}:ro"]
    if authorities := os.environ.get("SSL_CERT_FILE"):
        command += ["--secret", f"id=ca,src={authorities}"]
    started = time.monotonic()
    subprocess.run([*command, "--tag", IMAGE, str(ROOT)], check=True)
    say(f"built in {time.monotonic() - started:.0f} s")


def check_contents() -> None:
    """Size, user, labels; no compiler, no model."""
    (image,) = json.loads(output(*PODMAN, "image", "inspect", IMAGE))
    size = image["Size"] / 2**20
    say(f"size: {size:.0f} MiB")
    assert size < LARGEST_MIB, f"larger than {LARGEST_MIB} MiB"
    assert image["Config"]["User"] == "1000:1000", image["Config"]["User"]
    assert image["Config"]["Labels"]["org.opencontainers.image.title"] == "kserve-llamacpp"
    shell = [*PODMAN, "run", "--rm", *RUN, *LIMITS, "--entrypoint", "sh", IMAGE, "-c"]
    for tool in COMPILERS:
        assert not output(*shell, f"command -v {tool} || true"), f"{tool} is in the image"
    assert not output(*shell, "find / -xdev -name '*.gguf' 2>/dev/null || true"), "a model is in the image"
    variants = output(*shell, "find /opt -name 'libggml-cpu-*.so' | wc -l")
    say(f"CPU variants: {variants}")
    assert int(variants) >= 10


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


@contextmanager
def running(model: Path) -> Iterator[tuple[str, int, int]]:
    """The image serving the model as KServe would; yields the container, its process and its port."""
    port, grpc_port = free_port(), free_port()
    name = f"kserve-llamacpp-test-{os.getpid()}"
    mount = f"{model}:/mnt/models/{model.name}:ro"
    arguments = ["serve", "--model_dir=/mnt/models", "--model_name=chat", "--context_tokens=4096"]
    arguments += [f"--http_port={port}", f"--grpc_port={grpc_port}"]
    output(*PODMAN, "run", "--detach", "--name", name, *RUN, *LIMITS, "--volume", mount, IMAGE, *arguments)
    try:
        process = int(output(*PODMAN, "inspect", "--format", "{{.State.Pid}}", name))
        wait_ready(name, port)
        yield name, process, port
    finally:
        subprocess.run([*PODMAN, "rm", "--force", "--time", "5", name], capture_output=True, check=False)


def wait_ready(name: str, port: int) -> None:
    started = time.monotonic()
    while time.monotonic() - started < READY_SECONDS:
        try:
            status, _ = request(port, "GET", "/v2/models/chat/ready")
        except OSError:
            status = 0
        if status == 200:
            say(f"ready after {time.monotonic() - started:.1f} s")
            return
        time.sleep(0.1)
    logs = subprocess.run([*PODMAN, "logs", name], capture_output=True, text=True, check=False)
    sys.exit(f"not ready after {READY_SECONDS:.0f} s:\n{logs.stdout[-2000:]}{logs.stderr[-2000:]}")


def request(port: int, method: str, path: str, body: object = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        data = None if body is None else json.dumps(body)
        connection.request(method, path, data, {"content-type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def check_confinement(process: int) -> None:
    """Not root, no capabilities, a root file system that can't be written."""
    status = Path(f"/proc/{process}/status").read_text()
    assert re.search(r"^Uid:\s+1000\s", status, re.M), status
    assert re.search(r"^CapEff:\s+0+$", status, re.M), status
    mounts = Path(f"/proc/{process}/mountinfo").read_text().splitlines()
    (root,) = (fields for line in mounts if (fields := line.split())[4] == "/")
    assert "ro" in root[5].split(","), root
    libraries = set(re.findall(r"libggml-cpu-\w+\.so", Path(f"/proc/{process}/maps").read_text()))
    say(f"CPU backend: {', '.join(sorted(libraries))}")
    assert len(libraries) == 1, "no CPU backend, or several"


def chat(max_tokens: int, *, stream: bool) -> dict[str, object]:
    messages = [{"role": "user", "content": "Count from one to one hundred."}]
    return {
        "model": "chat",
        "messages": messages,
        "max_tokens": max_tokens,
        "temperature": 0,
        "stream": stream,
    }


def check_completion(port: int) -> None:
    status, body = request(port, "POST", "/v1/chat/completions", chat(16, stream=False))
    assert status == 200, body
    answer = json.loads(body)["choices"][0]["message"]["content"]
    say(f"answer: {answer!r}")
    assert answer.strip()


def check_drain(name: str, process: int, port: int) -> None:
    """SIGTERM during a stream: it is finished, then the process ends with status 0."""
    answers: list[tuple[int, bytes]] = []
    body = chat(200, stream=True)
    client = threading.Thread(
        target=lambda: answers.append(request(port, "POST", "/v1/chat/completions", body))
    )
    client.start()
    time.sleep(1)
    assert not answers, "the stream ended before the signal; take a slower model"
    os.kill(process, signal.SIGTERM)
    client.join(60)
    ((status, body_sent),) = answers
    assert status == 200
    assert body_sent.rstrip().endswith(b"data: [DONE]"), body_sent[-300:]
    exit_status = output(*PODMAN, "wait", name)
    say(f"drained; exit status {exit_status}")
    assert exit_status == "0"


def check_pod(model: Path) -> None:
    """The Pod of the plain deployment through `podman play kube`.

    Its probes are left out, since podman runs them as curl inside the container, and the image has none; the
    download is replaced by the file.
    """
    manifest = ROOT / "manifests/overlays/plain-deployment/workload/deployment.yaml"
    deployment = yaml.safe_load(manifest.read_text())
    spec = deployment["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    port, grpc_port = free_port(), free_port()
    container["image"] = IMAGE
    container["args"][1] = f"/models/{model.name}"
    container["args"] += [f"--http_port={port}", f"--grpc_port={grpc_port}", "--context_tokens=4096"]
    for field in ("startupProbe", "readinessProbe", "livenessProbe", "lifecycle", "ports"):
        del container[field]
    del spec["topologySpreadConstraints"]
    with tempfile.TemporaryDirectory(prefix="kserve-llamacpp-pod-") as folder:
        scratch = Path(folder, "tmp")
        scratch.mkdir(mode=0o777)
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
            wait_ready("chat-chat", port)
            check_completion(port)
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
        build()
    check_contents()
    with running(model) as (name, process, port):
        check_confinement(process)
        check_completion(port)
        check_drain(name, process, port)
    check_pod(model)
    say("1 passed, 0 failed")


if __name__ == "__main__":
    main()
