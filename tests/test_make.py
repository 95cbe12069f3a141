"""What `make serve` serves and sets up, and where the compiled llama.cpp comes from."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path

import pytest

from predictor.engine.llama.cpu import cpu_features, is_repacked
from predictor.formats.advice import log_format
from predictor.formats.repacking import report_format
from predictor.models.gguf_split import read_parts
from scripts.install_packages import uv_settings

ROOT = Path(__file__).parent.parent


def would_run(target: str, *arguments: str) -> str:
    """The commands of a target."""
    environment = {name: value for name, value in os.environ.items() if name != "MODEL"}
    command = ["make", "-n", target, "XDG_CACHE_HOME=/cache", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def served(*arguments: str) -> str:
    """The command that `make serve` would run."""
    return next(
        line for line in would_run("serve", *arguments).splitlines() if "kserve-llamacpp serve" in line
    )


needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")


@needs_make
def test_make_serve_has_a_model_of_its_own_and_takes_another() -> None:
    assert '"/cache/kserve-llamacpp/models/SmolLM2-135M-Instruct.Q4_0.gguf"' in served()
    assert '"/m/x.gguf"' in served("MODEL=/m/x.gguf")


def test_the_demo_model_gets_no_advice(
    model_path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if "AVX2" not in cpu_features():
        pytest.skip("which formats are fast is another matter on this CPU")
    target = tmp_path / "demo.Q4_0.gguf"
    script = ROOT / "scripts" / "convert_demo_model.py"
    done = subprocess.run(
        [sys.executable, str(script), str(model_path), str(target)],
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    assert "Converted the demo model to Q4_0 in" in done.stdout
    with caplog.at_level("INFO"):
        log_format(report_format(read_parts(target), is_repacked), target)
    assert [x.getMessage() for x in caplog.records if x.name == log_format.__module__] == []


@needs_make
def test_serving_installs_no_more_than_serving_needs(tmp_path: Path) -> None:
    fresh = f"VENV={tmp_path / 'venv'}"
    assert "--editable ." in would_run("serve", fresh)
    assert "--editable '.[" not in would_run("serve", fresh)
    assert "--editable '.[test" in would_run("test", fresh)


@needs_make
def test_another_wheel_is_installed_and_the_same_one_is_not(tmp_path: Path) -> None:
    (tmp_path / "llama-choice").write_text("/here/a.whl\n")
    (tmp_path / ".serves").touch()
    fresh = f"VENV={tmp_path}"
    assert "Setting up" in would_run("serve", fresh, "LLAMA_WHEEL=/here/b.whl")
    assert "Setting up" in would_run("serve", fresh, "LLAMA_INDEX=https://index.example/simple")
    assert "Setting up" not in would_run("serve", fresh, "LLAMA_WHEEL=/here/a.whl")
    assert "Setting up" not in would_run("serve", fresh)


def llama_wheel(cache: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """What `build_llama.py wheel` says where nothing must be compiled."""
    command = [sys.executable, str(ROOT / "scripts/build_llama.py"), "wheel"]
    return subprocess.run(
        command,
        env=os.environ | {"XDG_CACHE_HOME": str(cache)} | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def empty_wheel(folder: Path, version: str) -> Path:
    """A wheel of nothing that pip takes for llama-cpp-python."""
    path = folder / f"llama_cpp_python-{version}-py3-none-any.whl"
    about = f"llama_cpp_python-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(
            f"{about}/METADATA", f"Metadata-Version: 2.1\nName: llama_cpp_python\nVersion: {version}\n"
        )
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    return path


def test_a_wheel_that_is_named_is_taken_if_it_fits(tmp_path: Path) -> None:
    fits = empty_wheel(tmp_path, version("llama-cpp-python"))
    assert llama_wheel(tmp_path, LLAMA_WHEEL=str(fits)).stdout == f"{fits}\n"
    other = llama_wheel(tmp_path, LLAMA_WHEEL=str(empty_wheel(tmp_path, "0.0.1")))
    assert "a wheel of llama-cpp-python" in other.stderr
    absent = llama_wheel(tmp_path, LLAMA_WHEEL="no.whl")
    assert (absent.returncode, absent.stderr) == (1, "LLAMA_WHEEL=no.whl: there is no such file\n")


def test_an_index_that_has_the_wheel_spares_compiling(tmp_path: Path) -> None:
    project = tmp_path / "served/llama-cpp-python"
    project.mkdir(parents=True)
    wheel = empty_wheel(project, version("llama-cpp-python"))
    (project / "index.html").write_text(f'<a href="{wheel.name}">{wheel.name}</a>')
    files = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "served"))
    with ThreadingHTTPServer(("127.0.0.1", 0), files) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        index = f"http://127.0.0.1:{server.server_port}/"
        first = llama_wheel(tmp_path, LLAMA_INDEX=index)
        server.shutdown()
    assert first.returncode == 0, first.stderr
    assert Path(first.stdout.strip()).read_bytes() == wheel.read_bytes()
    assert llama_wheel(tmp_path, LLAMA_INDEX=index).stdout == first.stdout  # Kept: the index is gone.
    gone = llama_wheel(tmp_path / "elsewhere", LLAMA_INDEX=index, PIP_RETRIES="0")
    assert gone.returncode == 1
    assert "downloading failed" in gone.stderr


def test_uv_gets_the_settings_of_pip(tmp_path: Path) -> None:
    """As pip itself lists them, from a file and from the environment, which wins."""
    (tmp_path / "pip.conf").write_text(
        "[global]\nindex-url = https://a.example/simple\ncert = /ca.pem\n"
        "extra-index-url =\n    https://b.example/simple\n    https://c.example/simple\n"
        "trusted-host = a.example\n[install]\nno-index = true\n[list]\nformat = json\n"
    )
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    set_here = {
        "PIP_CONFIG_FILE": str(tmp_path / "pip.conf"),
        "PIP_FIND_LINKS": "/x /y",
        "PIP_CERT": "/other.pem",
    }
    command = [sys.executable, "-m", "pip", "config", "list"]
    listing = subprocess.run(command, env=clean | set_here, capture_output=True, text=True, check=True).stdout
    found = uv_settings(listing)
    assert found["UV_DEFAULT_INDEX"] == "https://a.example/simple"
    assert found["UV_INDEX"] == "https://b.example/simple https://c.example/simple"
    assert found["UV_FIND_LINKS"] == "/x,/y"
    assert found["SSL_CERT_FILE"] == "/other.pem"
    assert found["UV_INSECURE_HOST"] == "a.example"
    assert found["UV_NO_INDEX"] == "true"
