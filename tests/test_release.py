"""A release: one version everywhere, and files with checksums, without touching the checkout."""

from __future__ import annotations

import datetime
import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import yaml

from predictor import __version__
from scripts.release_version import current_version, release_notes, set_version

ROOT = Path(__file__).resolve().parents[1]
DAY = datetime.date(2030, 1, 2)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with what is in this checkout now, committed or not."""
    tree = tmp_path / "tree"
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tree / name)
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for arguments in (
        ["init", "--quiet"],
        ["add", "--all"],
        [*identity, "commit", "--quiet", "--message", "all"],
    ):
        subprocess.run(["git", *arguments], cwd=tree, check=True)
    return tree


def test_a_new_version_is_everywhere_and_the_old_one_nowhere(checkout: Path) -> None:
    changed = set_version(checkout, "97.8.9", DAY)
    assert current_version(checkout) == "97.8.9"
    chart = yaml.safe_load((checkout / "charts/kserve-llamacpp/Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == ("97.8.9", "97.8.9")
    assert "ARG VERSION=97.8.9\n" in (checkout / "Dockerfile").read_text()
    assert {"README.md", "runtimes/kserve/base/runtime.yaml", "CHANGELOG.md"} <= set(changed)
    grep = ["git", "grep", "--fixed-strings", "--line-number", f"kserve-llamacpp:{__version__}"]
    assert subprocess.run(grep, cwd=checkout, capture_output=True, text=True).stdout == ""
    changelog = (checkout / "CHANGELOG.md").read_text()
    assert "## Unreleased\n\n## 97.8.9 - 2030-01-02\n" in changelog
    assert release_notes(changelog) == ""


@pytest.mark.parametrize(("version", "reason"), [("1.2", "no semantic version"), ("0.0.1", "is not newer")])
def test_a_version_that_is_none(checkout: Path, version: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        set_version(checkout, version, DAY)


def test_nothing_to_release(checkout: Path) -> None:
    set_version(checkout, "97.0.0", DAY)
    with pytest.raises(ValueError, match="nothing under Unreleased"):
        set_version(checkout, "98.0.0", DAY)


def test_every_place_names_the_version_of_the_package() -> None:
    chart = yaml.safe_load((ROOT / "charts/kserve-llamacpp/Chart.yaml").read_text())
    assert {chart["version"], chart["appVersion"]} == {__version__}
    assert f"ARG VERSION={__version__}\n" in (ROOT / "Dockerfile").read_text()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_trial_makes_all_files_and_changes_nothing(checkout: Path) -> None:
    command = [sys.executable, "scripts/release.py", "97.8.9", "--quick"]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, timeout=590)
    assert done.returncode == 0, done.stderr
    assert "nothing is committed or tagged" in done.stderr
    assert subprocess.run(["git", "tag"], cwd=checkout, capture_output=True, text=True).stdout == ""
    assert current_version(checkout) == __version__
    target = checkout / "build/release/97.8.9"
    sums = dict(line.split()[::-1] for line in (target / "SHA256SUMS").read_text().splitlines())
    assert sums.keys() == {path.name for path in target.iterdir()} - {"SHA256SUMS"}
    for name, digest in sums.items():
        assert hashlib.sha256((target / name).read_bytes()).hexdigest() == digest
    assert {"kserve_llamacpp-97.8.9.tar.gz", "kserve_llamacpp-97.8.9-py3-none-any.whl"} <= sums.keys()
    with tarfile.open(target / "kserve-llamacpp-97.8.9-chart.tgz") as archive:
        assert "kserve-llamacpp/values.schema.json" in archive.getnames()
        json.load(archive.extractfile("kserve-llamacpp/values.schema.json"))
    with tarfile.open(target / "kserve-llamacpp-97.8.9-docs.tar.gz") as archive:
        assert "97.8.9/security.html" in archive.getnames()
    with tarfile.open(target / "kserve-llamacpp-97.8.9-manifests.tar.gz") as archive:
        runtime = archive.extractfile("runtimes/kserve/base/runtime.yaml").read().decode()
        assert "image: kserve-llamacpp:97.8.9" in runtime


def test_a_checkout_with_changes_is_not_released(checkout: Path) -> None:
    (checkout / "README.md").write_text("changed")
    command = [sys.executable, "scripts/release.py", "97.8.9"]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "changes that are not committed" in done.stderr
