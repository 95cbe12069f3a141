"""What a reader must know about the machine and the software to judge the figures."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

_PACKAGES = ("kserve", "llama-cpp-python", "scipy-openblas32", "fastapi", "uvicorn", "aiohttp")


def describe_machine() -> dict[str, str]:
    """CPU, cores, memory, kernel and frequency governor."""
    governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    return {
        "CPU": _cpu_model(),
        "Cores": str(len(os.sched_getaffinity(0))),
        "Memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "Kernel": f"{platform.system()} {platform.release()}",
        "Frequency governor": governor.read_text().strip() if governor.exists() else "not visible",
    }


def _cpu_model() -> str:
    fields: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    name, family, model = (fields.get(key, "unknown") for key in ("model name", "cpu family", "model"))
    return f"{name} (family {family}, model {model})"


def describe_versions(llama_server: Path | None) -> dict[str, str]:
    """Versions of Python, the packages that matter and llama-server."""
    versions = {"Python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    if llama_server is not None:
        shown = subprocess.run([llama_server, "--version"], capture_output=True, text=True, check=True)
        versions["llama-server"] = (shown.stdout + shown.stderr).partition("\n")[0].removeprefix("version: ")
    return versions
