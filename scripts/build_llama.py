"""Compile llama.cpp once per machine and keep the result outside the checkout.

    build_llama.py wheel      the llama-cpp-python wheel; prints its path
    build_llama.py server     llama-server and llama-bench of the same llama.cpp; prints their folder
    build_llama.py openblas   llama.cpp's backend for OpenBLAS, put beside the installed llama-cpp-python
    build_llama.py templates  the chat templates in llama.cpp's source, for tests; prints their folder

`wheel` compiles nothing where LLAMA_WHEEL names a wheel, or LLAMA_INDEX an index that has one.
A build is kept under a key of everything that shapes it, the CPU's features among them, because code that is
compiled for one CPU can crash on another. Progress goes to stderr.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kserve-llamacpp"
OPENBLAS = ROOT / "scripts" / "openblas"
OPENBLAS_BACKEND = "libggml-blas.so"
AMX_TILES = ROOT / "scripts" / "amx_tiles.h"
CMAKE_INCLUDE = ROOT / "scripts" / "llama_cpp.cmake"
REPORT_EVERY = 15.0  # seconds
SERVER_OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_APP=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_CURL=OFF",
    "-DLLAMA_OPENSSL=OFF",
)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def pinned_version(package: str = "llama-cpp-python") -> str:
    name = re.sub("[-_]", "[-_]", package)
    found = re.search(rf"^{name}==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M)
    if found is None:
        sys.exit(f"constraints.txt has no line {package}==VERSION")
    return found[1]


def cpu_features() -> str:
    """The instruction sets of this CPU, in a stable order."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return platform.processor()
    line = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", cpuinfo.read_text(), re.M)
    return " ".join(sorted(line[1].split())) if line else platform.processor()


def build_key(options: str) -> str:
    """A folder name that changes with the version, the platform, the build options or the CPU."""
    shape = f"{options}\n{AMX_TILES.read_text()}\n{cpu_features()}"
    digest = hashlib.sha256(shape.encode()).hexdigest()[:12]
    return f"{pinned_version()}-{sysconfig.get_platform()}-{digest}"


def build_once(target: Path, build: Callable[[Path], None]) -> None:
    """Fill `target` by `build` unless it is there; only one process builds, and only whole results count."""
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another set-up that is compiling llama.cpp")
            fcntl.flock(lock, fcntl.LOCK_EX)
        if target.exists():
            return
        for leftover in target.parent.glob(".building-*"):
            shutil.rmtree(leftover)
        with tempfile.TemporaryDirectory(
            prefix=".building-", dir=target.parent, ignore_cleanup_errors=True
        ) as scratch:
            result = Path(scratch, "result")
            result.mkdir()
            build(result)
            result.rename(target)


def run(command: list[str], log: Path, what: str) -> None:
    """Run a long command, report how far it is, and show the end of its output if it fails.

    It works in the log's folder and in a process group of its own, so that an interrupted build leaves
    neither files nor compilers behind.
    """
    started = reported = time.monotonic()
    # CMake takes them into every C++ file's flags.
    flags = f"{os.environ.get('CXXFLAGS', '')} -include '{AMX_TILES}'"
    environment = os.environ | {"TMPDIR": str(log.parent), "CXXFLAGS": flags}
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
    try:
        while process.poll() is None:
            time.sleep(0.2)
            if time.monotonic() - reported >= REPORT_EVERY:
                reported = time.monotonic()
                say(f"  {what}: {duration(reported - started)}{ninja_step(log)}")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()
    if process.returncode:
        say(log.read_text(errors="replace")[-4000:])
        sys.exit(f"{what} failed with status {process.returncode}; the end of its output is above")


def duration(seconds: float) -> str:
    return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"


def ninja_step(log: Path) -> str:
    """How many build steps are done, as ninja or make last wrote it."""
    steps = re.findall(r"^\s*\[\s*(\d+/\d+|\d+%)\]", log.read_text(errors="replace"), re.M)
    return f", step {steps[-1]}" if steps else ""


def given_wheel(name: str) -> Path:
    """The wheel that LLAMA_WHEEL names, if it is of the pinned version."""
    path = Path(name).expanduser().resolve()
    if not path.is_file():
        sys.exit(f"LLAMA_WHEEL={name}: there is no such file")
    if not path.name.startswith(f"llama_cpp_python-{pinned_version()}-"):
        sys.exit(f"LLAMA_WHEEL={name}: a wheel of llama-cpp-python {pinned_version()} is needed")
    return path


def wheel_from(index: str, folder: Path) -> None:
    """Fetch a compiled wheel from a package index, such as those that llama-cpp-python's authors keep."""
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", "llama-cpp-python"]
    source = ["--index-url", index, f"llama-cpp-python=={pinned_version()}"]
    run([*pip, "--dest", str(folder), *source], folder.parent / "download.log", "downloading")


def wheel() -> Path:
    """The wheel to install: a given one, one from an index, or one that is compiled once per machine."""
    if name := os.environ.get("LLAMA_WHEEL"):
        return given_wheel(name)
    if index := os.environ.get("LLAMA_INDEX"):
        digest = hashlib.sha256(index.encode()).hexdigest()[:12]
        target = CACHE / "wheels" / f"{pinned_version()}-{sysconfig.get_platform()}-index-{digest}"
        build_once(target, lambda folder: wheel_from(index, folder))
    else:
        target = (
            CACHE / "wheels" / build_key(f"{os.environ.get('CMAKE_ARGS', '')}\n{CMAKE_INCLUDE.read_text()}")
        )
        build_once(target, build_wheel)
    (found,) = target.glob("*.whl")
    return found


def build_wheel(folder: Path) -> None:
    say(f"compiling llama-cpp-python {pinned_version()}, once per machine: 3 to 8 minutes on two cores")
    # scikit-build splits it as a shell does.
    include = shlex.quote(f"-DCMAKE_PROJECT_llama_cpp_INCLUDE={CMAKE_INCLUDE}")
    os.environ["CMAKE_ARGS"] = f"{os.environ.get('CMAKE_ARGS', '')} {include}"
    pip = [sys.executable, "-m", "pip", "wheel", "-v", "--no-deps", "--no-cache-dir"]
    source = ["--no-binary", "llama-cpp-python", f"llama-cpp-python=={pinned_version()}"]
    run([*pip, *source, "--wheel-dir", str(folder)], folder.parent / "build.log", "compiling")


def fetch_source(scratch: Path, log: Path) -> Path:
    """The llama.cpp that llama-cpp-python is compiled from."""
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", "llama-cpp-python"]
    run([*pip, "--dest", str(scratch), f"llama-cpp-python=={pinned_version()}"], log, "downloading")
    (sdist,) = scratch.glob("llama_cpp_python-*.tar.gz")
    run(["tar", "-xzf", str(sdist), "-C", str(scratch)], log, "unpacking")
    return scratch / sdist.name.removesuffix(".tar.gz") / "vendor" / "llama.cpp"


def build_openblas(folder: Path) -> None:
    say("compiling llama.cpp's backend for OpenBLAS, once per machine: a minute")
    log = folder.parent / "build.log"
    source = fetch_source(folder.parent, log)
    command = ["sh", str(OPENBLAS / "build.sh"), str(source), sys.executable, str(folder / OPENBLAS_BACKEND)]
    run(command, log, "compiling")


def install_openblas() -> None:
    """Build it where there is a scipy-openblas32, and copy it to where the engine looks for it."""
    if find_spec("scipy_openblas32") is None:
        return
    sources = b"".join(path.read_bytes() for path in sorted(OPENBLAS.iterdir()))
    digest = hashlib.sha256(sources).hexdigest()[:12]
    versions = f"{pinned_version()}-{pinned_version('scipy-openblas32')}"
    target = CACHE / "openblas" / f"{versions}-{sysconfig.get_platform()}-{digest}"
    build_once(target, build_openblas)
    libraries = Path(sysconfig.get_path("purelib"), "llama_cpp", "lib", "openblas")
    libraries.mkdir(exist_ok=True)
    shutil.copy2(target / OPENBLAS_BACKEND, libraries)


def build_server(folder: Path) -> None:
    scratch, log = folder.parent, folder.parent / "build.log"
    say("compiling llama-server, once per machine: about 10 minutes on two cores")
    source, build = fetch_source(scratch, log), scratch / "build"
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    run(["cmake", "-S", str(source), "-B", str(build), *generator, *SERVER_OPTIONS], log, "configuring")
    targets = ["--target", "llama-server", "llama-bench"]
    run(["cmake", "--build", str(build), "-j", str(os.cpu_count()), *targets], log, "compiling")
    for name in ("llama-server", "llama-bench"):
        shutil.copy2(build / "bin" / name, folder)


def copy_templates(folder: Path) -> None:
    say(f"fetching the chat templates in the source of llama-cpp-python {pinned_version()}")
    source = fetch_source(folder.parent, folder.parent / "build.log")
    for template in (source / "models" / "templates").glob("*.jinja"):
        shutil.copy2(template, folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=["wheel", "server", "openblas", "templates"])
    what = parser.parse_args().what
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if what == "wheel":
        print(wheel())
    elif what == "openblas":
        install_openblas()
    elif what == "templates":
        target = CACHE / "templates" / pinned_version()
        build_once(target, copy_templates)
        print(target)
    else:
        target = CACHE / "llama-server" / build_key(" ".join(SERVER_OPTIONS))
        build_once(target, build_server)
        print(target)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
