"""The container image, and what it is built from where no registry can be reached."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kserve-llamacpp"
IMAGE = "localhost/kserve-llamacpp:test"
MODELCAR = "localhost/kserve-llamacpp-modelcar:test"
DEBIAN = "localhost/kserve-llamacpp-debian:bookworm"
TOOLS = ("buildah", "podman", "runc", "catatonit")
STORAGE = ("--storage-driver", "vfs")
BUILD = ("buildah", *STORAGE, "bud", "--isolation", "chroot", "--network", "host", "--layers")
# crun, the default network and the default limits need rights that build machines often lack.
PODMAN = ("podman", *STORAGE, "--runtime", "runc")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def output(*command: str | Path) -> str:
    """What a command prints; its end where it fails."""
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{result.stderr[-2000:]}")
    return result.stdout.strip()


def check_tools() -> None:
    needed = [*TOOLS, *([] if "BASE_IMAGE" in os.environ else ["debootstrap"])]
    missing = [tool for tool in needed if shutil.which(tool) is None]
    if missing:
        sys.exit(f"not installed: {', '.join(missing)} (Debian: apt-get install {' '.join(missing)} uidmap)")


def base_image() -> str:
    """BASE_IMAGE, or a Debian 12 made here once per machine."""
    if given := os.environ.get("BASE_IMAGE"):
        return given
    if DEBIAN not in output("buildah", *STORAGE, "images", "--format", "{{.Name}}:{{.Tag}}").split():
        _make_debian()
    return DEBIAN


def _make_debian() -> None:
    """As bare as the usual slim images: no Python, no documentation, no package lists."""
    say(f"making {DEBIAN} with debootstrap, a minute or two")
    site = output("apt-get", "indextargets", "--format", "$(SITE)").split()[0]
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="debian-", dir=CACHE) as folder:
        tree = Path(folder, "root")
        output("debootstrap", "--variant=minbase", "bookworm", tree, site)
        for left in (
            "usr/share/doc",
            "usr/share/locale",
            "usr/share/man",
            "var/cache/apt",
            "var/lib/apt/lists",
        ):
            shutil.rmtree(tree / left)
        container = output("buildah", *STORAGE, "from", "scratch")
        output("buildah", *STORAGE, "add", container, tree, "/")
        output("buildah", *STORAGE, "commit", "--rm", container, DEBIAN)


def build_image() -> None:
    """Build the checkout's Dockerfile, from the source of every wheel that is compiled."""
    base = base_image()
    say("building the image; llama.cpp is compiled once per instruction set, 10 to 30 minutes on two cores")
    command = [*BUILD, "--build-arg", f"BASE_IMAGE={base}"]
    command += ["--build-arg", f"BUILD_IMAGE={os.environ.get('BUILD_IMAGE', base)}"]
    revision = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    command += ["--build-arg", f"REVISION={revision.stdout.strip() or 'unknown'}"]
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


def build_modelcar(model: Path) -> None:
    """Pack one model with manifests/modelcar/Dockerfile."""
    dockerfile = ROOT / "manifests" / "modelcar" / "Dockerfile"
    with tempfile.TemporaryDirectory(prefix="modelcar-", dir=model.parent) as context:
        os.link(model, Path(context, model.name))
        base = ("--build-arg", f"BASE_IMAGE={base_image()}")
        output(*BUILD, *base, "--file", dockerfile, "--tag", MODELCAR, context)
