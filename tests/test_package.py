"""The package as `python -m build` makes it, installed where there is nothing else of the project."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("predictor", "rollout", "runtimes")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist, and the wheel that is made from it."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return sdist, wheel


def modules(names: list[str]) -> set[str]:
    return {name for name in names if name.endswith(".py") and name.split("/")[0] in PACKAGES}


def test_the_sdist_and_its_wheel_have_every_module(built: tuple[Path, Path]) -> None:
    sdist, wheel = built
    here = {
        path.relative_to(ROOT).as_posix() for package in PACKAGES for path in (ROOT / package).rglob("*.py")
    }
    with tarfile.open(sdist) as archive:
        assert modules([name.partition("/")[2] for name in archive.getnames()]) == here
    with zipfile.ZipFile(wheel) as archive:
        assert modules(archive.namelist()) == here
        data = {path.relative_to(ROOT).as_posix() for path in (ROOT / "predictor/api/static").iterdir()}
        assert data <= set(archive.namelist())


def test_the_wheel_works_in_an_empty_environment(built: tuple[Path, Path], tmp_path: Path) -> None:
    """Its dependencies are borrowed from here: installing them again would compile llama.cpp."""
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True, timeout=120)
    python = tmp_path / "venv" / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", str(built[1])]
    subprocess.run(install, check=True, timeout=120)
    (packages,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    # As a folder on the path without its .pth files, so that the checkout itself isn't among them.
    (own,) = [path for path in map(Path, sys.path) if path.name == "site-packages"][:1]
    (packages / "borrowed.pth").write_text(f"{own}\n")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(python.with_name("kserve-llamacpp")), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)

    assert "Serve GGUF language models" in run("--help").stdout
    where = "import predictor, runtimes, rollout; print(predictor.__file__, runtimes.__file__)"
    found = subprocess.run([str(python), "-c", where], capture_output=True, text=True, cwd=tmp_path)
    assert found.stdout.count(str(tmp_path)) == 2, found.stdout + found.stderr
    for platform in ("kserve", "ray"):
        refused = run("serve", "nosuch.gguf", "--platform", platform)
        assert refused.returncode == 1
        assert "there is no GGUF file in" in refused.stderr
        assert "Traceback" not in refused.stderr
