"""CPU quota and memory limit, from folders that look like /proc and /sys of real containers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from predictor.cgroup import cpu_quota, default_threads, in_container, memory_limit


@pytest.fixture
def root(tmp_path: Path) -> Path:
    put(tmp_path, "proc/meminfo", "MemTotal:       16384 kB\nMemFree:        1 kB\n")
    return tmp_path


def put(root: Path, file: str, content: str) -> None:
    path = root / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def test_version_2_in_a_container(root: Path) -> None:
    put(root, "proc/self/cgroup", "0::/\n")
    put(root, "sys/fs/cgroup/cpu.max", "150000 100000\n")
    put(root, "sys/fs/cgroup/memory.max", "1048576\n")
    assert cpu_quota(root) == 1.5
    assert memory_limit(root) == 1 << 20


def test_version_2_takes_the_tightest_of_all_parents(root: Path) -> None:
    put(root, "proc/self/cgroup", "0::/pod/container\n")
    put(root, "sys/fs/cgroup/pod/cpu.max", "50000 100000\n")
    put(root, "sys/fs/cgroup/pod/container/cpu.max", "200000 100000\n")
    put(root, "sys/fs/cgroup/pod/memory.max", "4096\n")
    put(root, "sys/fs/cgroup/pod/container/memory.max", "max\n")
    assert cpu_quota(root) == 0.5
    assert memory_limit(root) == 4096


def test_version_2_without_limits(root: Path) -> None:
    put(root, "proc/self/cgroup", "0::/\n")
    put(root, "sys/fs/cgroup/cpu.max", "max 100000\n")
    put(root, "sys/fs/cgroup/memory.max", "max\n")
    assert cpu_quota(root) is None
    assert memory_limit(root) == 16384 * 1024


def test_version_1_with_the_hosts_path(root: Path) -> None:
    # Without a cgroup namespace the path is the host's; the container sees its own group at the mount point.
    put(root, "proc/self/cgroup", "4:memory:/kubepods/pod1/c1\n2:cpu,cpuacct:/kubepods/pod1/c1\n0::/\n")
    put(root, "sys/fs/cgroup/cpu/cpu.cfs_quota_us", "300000\n")
    put(root, "sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n")
    put(root, "sys/fs/cgroup/memory/memory.limit_in_bytes", "8192\n")
    assert cpu_quota(root) == 3
    assert memory_limit(root) == 8192


def test_version_1_without_limits(root: Path) -> None:
    put(root, "proc/self/cgroup", "4:memory:/\n2:cpu,cpuacct:/\n")
    put(root, "sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n")
    put(root, "sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n")
    put(root, "sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")
    assert cpu_quota(root) is None
    assert memory_limit(root) == 16384 * 1024


def test_hybrid_takes_both_versions(root: Path) -> None:
    put(root, "proc/self/cgroup", "4:memory:/a\n0::/b\n")
    put(root, "sys/fs/cgroup/memory/a/memory.limit_in_bytes", "8192\n")
    put(root, "sys/fs/cgroup/unified/b/memory.max", "4096\n")
    assert memory_limit(root) == 4096


@pytest.mark.parametrize("content", ["", "garbage\n", "0 0\n", "100000\n", "1 2 3\n", "-5 100000\n"])
def test_damaged_files_mean_no_quota(root: Path, content: str) -> None:
    put(root, "proc/self/cgroup", "0::/../..\nnot a line\n\n")
    put(root, "sys/fs/cgroup/cpu.max", content)
    assert cpu_quota(root) is None


def test_a_quota_needs_both_files_of_version_1(root: Path) -> None:
    put(root, "proc/self/cgroup", "2:cpu:/\n")
    put(root, "sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n")
    assert cpu_quota(root) is None


def test_nothing_readable(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) is None
    assert memory_limit(tmp_path) is None
    assert default_threads(tmp_path) == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(("quota", "threads"), [("50000", 1), ("199000", 1), ("100000000", None)])
def test_threads_from_the_quota(root: Path, quota: str, threads: int | None) -> None:
    put(root, "proc/self/cgroup", "0::/\n")
    put(root, "sys/fs/cgroup/cpu.max", f"{quota} 100000\n")
    assert default_threads(root) == (threads or len(os.sched_getaffinity(0)))


def test_threads_are_physical_cores_without_a_quota(root: Path) -> None:
    cpus = sorted(os.sched_getaffinity(0))
    for cpu in cpus:
        put(root, f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list", f"{cpus[0]}-{cpus[-1]}\n")
    assert default_threads(root) == 1


def test_this_machine() -> None:
    limit = memory_limit()
    assert limit is not None
    assert limit > 1 << 28
    assert 1 <= default_threads() <= len(os.sched_getaffinity(0))


def test_in_a_container(tmp_path: Path) -> None:
    assert not in_container(tmp_path, {})
    assert in_container(tmp_path, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"})
    put(tmp_path, "run/.containerenv", "")
    assert in_container(tmp_path, {})
