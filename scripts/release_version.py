"""Every place that names the version of a release, changed together.

`predictor/__init__.py` is where the version is read from; images in manifests, the chart and examples in the
docs name it as well.
"""

from __future__ import annotations

import datetime
import re
import subprocess
from pathlib import Path

SEMANTIC = re.compile(r"(\d+)\.(\d+)\.(\d+)(?:-[0-9a-z.-]+)?")
# What stands before the version, by file; elsewhere it follows the name of an image or of the package.
BEFORE = {
    "predictor/__init__.py": r'__version__ = "',
    "charts/kserve-llamacpp/Chart.yaml": r"(?:version|appVersion): ",
    "Dockerfile": r"(?:ARG VERSION=|kserve-llamacpp(?:-[a-z]+)*:)",
}
NAMED = r"kserve-llamacpp(?:-[a-z]+)*[:-]"
UNRELEASED = "## Unreleased\n"


def current_version(root: Path) -> str:
    """The version of a checkout."""
    found = re.search(r'^__version__ = "(.+)"$', (root / "predictor/__init__.py").read_text(), re.M)
    assert found
    return found[1]


def set_version(root: Path, version: str, day: datetime.date) -> list[str]:
    """Change a checkout to a new version.

    Returns:
        The files that changed.

    Raises:
        ValueError: the version isn't semantic or isn't newer, or nothing was noted as unreleased.
    """
    old = current_version(root)
    if SEMANTIC.fullmatch(version) is None:
        raise ValueError(f"{version} is no semantic version, such as 1.4.0")
    if _numbers(version) <= _numbers(old):
        raise ValueError(f"{version} is not newer than {old}")
    changed = [name for name in _text_files(root) if _replace(root / name, name, old, version)]
    changelog = root / "CHANGELOG.md"
    text = changelog.read_text()
    if release_notes(text) == "":
        raise ValueError("CHANGELOG.md has nothing under Unreleased")
    changelog.write_text(text.replace(UNRELEASED, f"{UNRELEASED}\n## {version} - {day.isoformat()}\n", 1))
    return [*changed, "CHANGELOG.md"]


def release_notes(changelog: str) -> str:
    """What stands under Unreleased."""
    _, _, rest = changelog.partition(UNRELEASED)
    return rest.partition("\n## ")[0].strip()


def _numbers(version: str) -> tuple[int, ...]:
    found = SEMANTIC.fullmatch(version)
    assert found
    return tuple(map(int, found.groups()))


def _text_files(root: Path) -> list[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=root, capture_output=True, text=True, check=True)
    names = listed.stdout.splitlines()
    ends = (".md", ".yaml", ".py", "Dockerfile")
    return [
        name for name in names if name.endswith(ends) and name != "CHANGELOG.md" and (root / name).is_file()
    ]


def _replace(path: Path, name: str, old: str, new: str) -> bool:
    before = path.read_text()
    after = re.sub(rf"({BEFORE.get(name, NAMED)}){re.escape(old)}(?![\w.]*\d)", rf"\g<1>{new}", before)
    if after != before:
        path.write_text(after)
    return after != before
