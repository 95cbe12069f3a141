"""The package as `python -m build` makes it, installed where there is nothing else of the project."""

from __future__ import annotations

import email
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import httpx
import pytest
from server_process import started_server, wait_until_ready

from predictor import __version__
from predictor.documentation import SITE

ROOT = Path(__file__).parent.parent
BRIEF, QUESTION = "Answer in one sentence.", "What is the capital of France?"
PACKAGES = ("predictor", "rollout", "runtimes")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1900)]


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
        static = (path for path in (ROOT / "predictor/api/static").rglob("*") if path.is_file())
        data = {path.relative_to(ROOT).as_posix() for path in static}
        assert data <= set(archive.namelist())


def test_the_wheel_says_what_it_is(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[1]) as archive:
        (folder,) = {name.split("/")[0] for name in archive.namelist() if ".dist-info/" in name}
        about = email.message_from_bytes(archive.read(f"{folder}/METADATA"))
        licences = {name.rpartition("/")[2] for name in archive.namelist() if "/licenses/" in name}
        assert {f"{package}/py.typed" for package in PACKAGES} <= set(archive.namelist())
    assert (about["Name"], about["Version"]) == ("kserve-llamacpp", __version__)
    assert about["License-Expression"] == "Apache-2.0"
    assert licences == {"LICENSE", "NOTICE"}
    assert about["Author"]
    links = dict(link.split(", ") for link in about.get_all("Project-URL", []))
    assert links.keys() >= {"Homepage", "Documentation", "Changelog", "Issues"}
    assert links["Documentation"] == SITE
    assert "Typing :: Typed" in about.get_all("Classifier", [])


def test_every_part_from_elsewhere_is_in_the_notice() -> None:
    notice = (ROOT / "NOTICE").read_text()
    listed = set(re.findall(r"\b(?:predictor|rollout|runtimes)/[\w/.-]+\w", notice))
    assert [name for name in listed if not (ROOT / name).exists()] == []
    assert "predictor/formats/opticks.txt" in listed


@pytest.fixture(scope="module")
def empty_environment(built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command of the wheel in an environment that held nothing before; llama.cpp as it was compiled."""
    venv = tmp_path_factory.mktemp("empty") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True, timeout=120)
    noted = Path(sys.prefix, "llama-wheel")
    if not noted.exists():
        pytest.skip("this environment is not of make's: nothing says which wheel of llama.cpp is in it")
    llama = noted.read_text().strip()
    install = [str(venv / "bin/python"), "-m", "pip", "install", "--quiet", llama, str(built[1])]
    constraint = os.environ | {"PIP_CONSTRAINT": str(ROOT / "constraints.txt")}
    done = subprocess.run(install, capture_output=True, text=True, timeout=900, env=constraint)
    assert done.returncode == 0, done.stderr[-3000:]
    return venv / "bin/kserve-llamacpp"


def test_the_package_serves_from_an_empty_environment(
    empty_environment: Path, model_path: Path, tmp_path: Path
) -> None:
    """What is imported is the package, and everything it needs came with it."""
    python = empty_environment.with_name("python")
    where = "import predictor, runtimes, rollout; print(predictor.__file__, runtimes.__file__)"
    found = subprocess.run([str(python), "-c", where], capture_output=True, text=True, cwd=tmp_path)
    assert found.stdout.count("site-packages") == 2, found.stdout + found.stderr
    with started_server(model_path, tmp_path / "log", command=[str(empty_environment)]) as server:
        wait_until_ready(server)
        # Without a system prompt the tiny model's first word hangs on rounding, which OpenBLAS changes.
        messages = [{"role": "system", "content": BRIEF}, {"role": "user", "content": QUESTION}]
        body = {"messages": messages, "temperature": 0}
        answer = httpx.post(f"{server.http_url}/v1/chat/completions", json=body, timeout=120).json()
        assert "Paris" in answer["choices"][0]["message"]["content"]


def test_one_command_from_the_package_to_a_chat(
    empty_environment: Path, model_path: Path, tmp_path: Path
) -> None:
    done = subprocess.run(
        [str(empty_environment), "run", str(model_path), "--system", BRIEF, "--temperature", "0"],
        input=QUESTION,
        capture_output=True,
        text=True,
        timeout=240,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "Paris" in done.stdout
    assert (
        "ok      CPU"
        in subprocess.run(
            [str(empty_environment), "doctor"], capture_output=True, text=True, timeout=120, cwd=tmp_path
        ).stdout
    )


def test_what_needs_an_extra_says_so(empty_environment: Path, tmp_path: Path, model_path: Path) -> None:
    def error_of(*arguments: str) -> str:
        command = [str(empty_environment), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
        assert done.returncode == 1, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stderr

    assert "pip install 'kserve-llamacpp[ray]'" in error_of("serve", str(model_path), "--platform", "ray")
    assert "there is no GGUF file in" in error_of("serve", "nosuch.gguf")
