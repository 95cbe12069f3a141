"""This machine: what llama.cpp makes of its CPU, what the container may use, how models get here."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

from predictor.cgroup import ROOT, cpu_quota, default_threads, in_container, memory_limit
from predictor.doctor.finding import Finding, good, note, problem

PORTS = (8080, 8081)
SMALL_MEMORY = 2 * 2**30
LITTLE_DISK = 5 * 2**30
HUB_SECONDS = 5
MUCH_THROTTLING = 0.05
# Names of ggml's features, and those of the kernel for the same, from the widest.
_VECTORS = (("AVX512", "avx512f"), ("AVX2", "avx2"), ("NEON", "asimd"))


def examine_machine() -> Iterator[Finding]:
    """Look at everything; an examination that fails is a finding, too."""
    yield examine_cpu(kernel_features(), library_features())
    yield examine_cores(os.cpu_count() or 1, cpu_quota(), default_threads())
    yield examine_throttling(throttled_share())
    yield examine_memory(memory_limit())
    yield examine_disk()
    yield from map(examine_port, PORTS)
    yield examine_hub()
    if in_container():
        where = "in a container: the server listens on all networks unless --host says otherwise"
        yield good("container", where)


def kernel_features(root: Path = ROOT) -> set[str]:
    """The CPU's features by the kernel's names."""
    try:
        lines = (root / "proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return {
        word
        for line in lines
        if line.partition(":")[0].strip() in ("flags", "Features")
        for word in line.partition(":")[2].split()
    }


def library_features() -> tuple[str, ...]:
    """What the CPU backend that llama.cpp loads here was compiled for, by ggml's names."""
    from predictor.engine.llama.cpu import cpu_features

    return cpu_features()


def examine_cpu(kernel: set[str], library: tuple[str, ...]) -> Finding:
    """Whether llama.cpp uses the widest vectors that the CPU has."""
    has = [ggml for ggml, linux in _VECTORS if linux in kernel]
    uses = [ggml for ggml, _ in _VECTORS if ggml in library]
    backend = f"llama.cpp's CPU backend uses {', '.join(library) or 'no features'}"
    if has and has[0] not in uses:
        advice = "install a llama-cpp-python that was compiled on this machine: `make distclean serve`"
        return note("CPU", f"{backend}, but the CPU has {has[0]} too", advice)
    if not uses or uses[0] not in ("AVX512", "AVX2", "NEON"):
        return note(
            "CPU",
            f"{backend}: without AVX2 text comes slowly",
            "choose a small model, or a newer CPU",
        )
    return good("CPU", backend)


def examine_cores(cpus: int, quota: float | None, threads: int) -> Finding:
    """What the CPU quota makes of the cores."""
    if quota is None:
        return good("cores", f"{cpus} CPUs, no quota: {threads} threads")
    found = f"{cpus} CPUs, a quota of {quota:g}: {threads} thread{'s' if threads > 1 else ''}"
    if quota < 1:
        return note(
            "cores",
            f"{found}, which is stopped for part of every period",
            "give it at least one CPU",
        )
    if quota != int(quota):
        return note("cores", f"{found}; the rest is unused", "make the CPU limit a whole number")
    return good("cores", found)


def throttled_share(root: Path = ROOT) -> float | None:
    """In how many of the periods so far this group was stopped, 0 to 1; None where it isn't counted."""
    for name in ("sys/fs/cgroup/cpu.stat", "sys/fs/cgroup/cpu/cpu.stat"):
        try:
            words = (root / name).read_text().split()
        except OSError:
            continue
        counts = dict(zip(words[::2], map(int, words[1::2]), strict=False))
        if counts.get("nr_periods"):
            return counts.get("nr_throttled", 0) / counts["nr_periods"]
    return None


def examine_throttling(share: float | None) -> Finding:
    """Whether the quota is used up again and again."""
    if share is None:
        return good("throttling", "none is counted")
    found = f"stopped by the quota in {share:.0%} of the periods"
    if share > MUCH_THROTTLING:
        return note("throttling", found, "raise the CPU limit, or lower --threads")
    return good("throttling", found)


def examine_memory(limit: int | None) -> Finding:
    """What weights and KV cache have to fit into."""
    if limit is None:
        return note("memory", "its limit can't be read", "see that the model fits by yourself")
    found = f"{limit / 2**30:.1f} GiB for weights and KV cache"
    if limit < SMALL_MEMORY:
        return note("memory", found, "enough for models of up to about a billion parameters")
    return good("memory", found)


def examine_disk() -> Finding:
    """Room for downloads."""
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE)
    present = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(present).free
    found = f"{free / 2**30:.0f} GiB free for downloads in {folder}"
    if not os.access(present, os.W_OK):
        return problem("disk", f"{folder} can't be written", "set HF_HOME to a folder of yours")
    if free < LITTLE_DISK:
        return note("disk", found, "set HF_HOME to a larger volume")
    return good("disk", found)


def examine_port(port: int) -> Finding:
    """Whether a default port is free."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))
        except OSError as error:
            option = "--http-port" if port == PORTS[0] else "--grpc-port"
            return note(
                "port",
                f"{port} can't be used ({error.strerror})",
                f"choose another with {option}",
            )
    return good("port", f"{port} is free")


def examine_hub() -> Finding:
    """Whether the hub answers."""
    import httpx
    from huggingface_hub import constants

    try:
        httpx.head(constants.ENDPOINT, timeout=HUB_SECONDS, follow_redirects=True)
    except httpx.HTTPError as error:
        advice = "serve files, set HF_ENDPOINT to a mirror, or HTTPS_PROXY to a way out"
        return note("hub", f"{constants.ENDPOINT} can't be reached ({error})", advice)
    return good("hub", f"{constants.ENDPOINT} answers")
