"""CPU and memory that this process may really use.

Inside a container the machine's cores and memory are visible, but the cgroup limits both. Version 2
(`cpu.max`, `memory.max`) and version 1 (`cpu.cfs_quota_us`, `memory.limit_in_bytes`) are read, with the
limits of all parent groups: https://docs.kernel.org/admin-guide/cgroup-v2.html
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

ROOT = Path("/")


def default_threads(root: Path = ROOT) -> int:
    """Threads for llama.cpp: the CPU quota in whole CPUs, or else the physical cores; at least 1.

    A quota is rounded down, because llama.cpp's threads spin while they wait for each other: when one
    is throttled, all of them burn quota.
    """
    cpus = os.sched_getaffinity(0)
    quota = cpu_quota(root)
    threads = _physical_cores(root, cpus) if quota is None else math.floor(quota)
    return max(1, min(threads, len(cpus)))


def cpu_quota(root: Path = ROOT) -> float | None:
    """CPUs that the cgroup allows, such as 1.5; None where there is no quota.

    Args:
        root: where /proc and /sys are found.
    """
    quotas = [_quota(_words(folder / "cpu.max")) for folder in _groups(root, "")]
    for folder in _groups(root, "cpu"):
        words = [_words(folder / name) for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")]
        quotas.append(_quota([word for pair in words for word in pair[:1]]))
    return min((quota for quota in quotas if quota is not None), default=None)


def memory_limit(root: Path = ROOT) -> int | None:
    """Bytes that the cgroup allows, at most the machine's memory; None where neither can be read.

    Args:
        root: where /proc and /sys are found.
    """
    files = [folder / "memory.max" for folder in _groups(root, "")]
    files += [folder / "memory.limit_in_bytes" for folder in _groups(root, "memory")]
    limits = [int(word) for file in files for word in _words(file)[:1] if word.isdecimal()]
    limits += _machine_memory(root)
    return min(limits, default=None)


def in_container(root: Path = ROOT, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is in a container: Docker and Podman leave a file there, Kubernetes a variable.

    Args:
        root: where the files are looked for.
        environment: where the variable is looked for.
    """
    files = (root / ".dockerenv", root / "run/.containerenv")
    return "KUBERNETES_SERVICE_HOST" in environment or any(file.exists() for file in files)


def _quota(words: list[str]) -> float | None:
    """CPUs from a quota and a period in microseconds; the quota is "max" or -1 where there is none."""
    if len(words) != 2 or not all(word.isdecimal() and int(word) > 0 for word in words):
        return None
    return int(words[0]) / int(words[1])


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The folder of this process's group and those of all its parents; `controller` "" is version 2.

    In a container without a cgroup namespace the group's path is the host's and isn't there: its parents
    are, up to the mount point, which then is the container's own group.
    """
    hierarchies = root / "sys/fs/cgroup"
    mount = hierarchies / (controller or "unified")
    if not controller and not mount.is_dir():
        mount = hierarchies
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controller not in controllers.split(","):
            continue
        group = PurePosixPath(path.lstrip("/"))
        yield from (mount / parent for parent in dict.fromkeys((group, *group.parents)))


def _physical_cores(root: Path, cpus: set[int]) -> int:
    """Cores behind these CPUs; every CPU counts as a core where /sys doesn't say."""
    folder = root / "sys/devices/system/cpu"
    siblings = (_words(folder / f"cpu{cpu}/topology/thread_siblings_list") for cpu in cpus)
    return len({tuple(words) or (str(cpu), "alone") for cpu, words in zip(cpus, siblings, strict=True)})


def _machine_memory(root: Path) -> list[int]:
    for line in _lines(root / "proc/meminfo"):
        words = line.split()
        if len(words) > 1 and words[0] == "MemTotal:" and words[1].isdecimal():
            return [int(words[1]) * 1024]
    return []


def _words(file: Path) -> list[str]:
    return " ".join(_lines(file)).split()


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
