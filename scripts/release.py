"""Make a release: `make release VERSION=1.4.0`, and nothing but files in build/release unless PUBLISH=1.

1. checks: the version, the changelog, a clean checkout, lint and tests
2. sets the version in a copy of the checkout, and builds there: sdist, wheel, image archive, chart,
   manifests, documentation
3. writes SHA256SUMS
4. with PUBLISH=1, commits and tags the new version in the checkout; it pushes and uploads nothing, and says
   the commands that do

What this machine has no tool for is left out and named.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from scripts.release_version import set_version  # noqa: E402

MANIFESTS = ("manifests", "runtimes/kserve", "runtimes/ray_serve/kuberay")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    """What a command prints; the release ends where it fails."""
    done = subprocess.run(command, cwd=cwd, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed with status {done.returncode}; nothing was released")
    return done.stdout.strip()


def check_checkout(version: str) -> None:
    """What a release is made of must be committed, and its tag must be new."""
    if run("git", "status", "--porcelain"):
        sys.exit("the checkout has changes that are not committed: commit or remove them")
    if run("git", "tag", "--list", f"v{version}"):
        sys.exit(f"there is a tag v{version} already")


def build_package(tree: Path, target: Path) -> None:
    run(sys.executable, "-m", "build", "--outdir", target, tree)


def build_chart(tree: Path, target: Path) -> None:
    """As `helm package` does, which only packs: a folder of the chart's name in an archive."""
    chart = tree / "charts" / "kserve-llamacpp"
    version = next(
        line.split()[1] for line in (chart / "Chart.yaml").read_text().splitlines() if "version:" in line
    )
    with tarfile.open(target / f"kserve-llamacpp-{version}-chart.tgz", "w:gz") as archive:
        archive.add(chart, "kserve-llamacpp")


def build_manifests(tree: Path, target: Path, version: str) -> None:
    with tarfile.open(target / f"kserve-llamacpp-{version}-manifests.tar.gz", "w:gz") as archive:
        for folder in MANIFESTS:
            archive.add(tree / folder, folder)


def build_documentation(tree: Path, target: Path, version: str) -> None:
    """The site under its version's name, as links in log lines have it; see predictor/documentation.py."""
    site = tree / "build" / "site"
    os.environ["NO_MKDOCS_2_WARNING"] = "1"
    run(sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", site, cwd=tree)
    with tarfile.open(target / f"kserve-llamacpp-{version}-docs.tar.gz", "w:gz") as archive:
        archive.add(site, version)


def works(tool: str) -> bool:
    """Whether a builder is there, and its daemon if it has one."""
    return (
        shutil.which(tool) is not None and subprocess.run([tool, "info"], capture_output=True).returncode == 0
    )


def build_image(tree: Path, target: Path, version: str) -> None:
    builder = next((tool for tool in ("docker", "podman", "buildah") if works(tool)), None)
    if builder is None:
        say("left out: the image, since neither docker nor podman nor buildah works here")
        return
    name = f"kserve-llamacpp:{version}"
    revision = run("git", "rev-parse", "HEAD")
    run(
        builder,
        "build",
        "--tag",
        name,
        "--build-arg",
        f"VERSION={version}",
        "--build-arg",
        f"REVISION={revision}",
        tree,
    )
    archive = target / f"kserve-llamacpp-{version}-image.tar"
    if builder == "buildah":
        run(builder, "push", name, f"docker-archive:{archive}:{name}")
    else:
        run(builder, "save", "--output", archive, name)


def write_checksums(target: Path) -> None:
    lines = []
    for path in sorted(target.iterdir()):
        with path.open("rb") as content:
            lines.append(f"{hashlib.file_digest(content, 'sha256').hexdigest()}  {path.name}\n")
    (target / "SHA256SUMS").write_text("".join(lines))


def build(version: str, target: Path, *, with_image: bool) -> None:
    """Fill `target` from a copy of the checkout with the new version."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="kserve-llamacpp-release-") as folder:
        tree = Path(folder, "tree")
        run("git", "clone", "--quiet", ROOT, tree)
        try:
            changed = set_version(tree, version, datetime.date.today())
        except ValueError as error:
            sys.exit(f"{error}; nothing was released")
        say(f"{version} is in {len(changed)} files")
        build_package(tree, target)
        build_chart(tree, target)
        build_manifests(tree, target, version)
        build_documentation(tree, target, version)
        if with_image:
            build_image(tree, target, version)
    write_checksums(target)


def publish(version: str) -> None:
    """Commit and tag; the rest is for a person with the keys."""
    changed = set_version(ROOT, version, datetime.date.today())
    run("git", "add", *changed)
    run("git", "commit", "--quiet", "--message", f"Release {version}")
    run("git", "tag", "--annotate", f"v{version}", "--message", f"kserve-llamacpp {version}")
    say(
        f"""committed and tagged; to publish:
  git push --follow-tags
  twine upload build/release/{version}/*.whl build/release/{version}/kserve_llamacpp-*.tar.gz
  podman load --input build/release/{version}/kserve-llamacpp-{version}-image.tar, then podman push
  helm push build/release/{version}/kserve-llamacpp-{version}-chart.tgz oci://REGISTRY
  mike deploy --push --update-aliases {version} latest"""
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("version")
    parser.add_argument("--publish", action="store_true", help="commit and tag")
    parser.add_argument("--quick", action="store_true", help="without lint, tests and the image")
    arguments = parser.parse_args()
    if arguments.publish and arguments.quick:
        parser.error("what is published is checked and has an image")
    check_checkout(arguments.version)
    if not arguments.quick:
        run("make", "lint", "test")
    target = ROOT / "build" / "release" / arguments.version
    build(arguments.version, target, with_image=not arguments.quick)
    if arguments.publish:
        publish(arguments.version)
    for path in sorted(target.iterdir()):
        say(f"  {path.relative_to(ROOT)}  {path.stat().st_size / 2**20:.1f} MiB")
    if not arguments.publish:
        say("a trial: nothing is committed or tagged; PUBLISH=1 does that")


if __name__ == "__main__":
    main()
