"""A Ray cluster of one node for tests and benchmarks, as an operator would have it.

Configurations go to the REST API that `serve deploy` talks to.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from runtimes.ray_serve.proxy import ENVIRONMENT
from scripts.free_ports import free_port, free_ports

START_SECONDS = 120
DEPLOY_SECONDS = 180
OBJECT_STORE_BYTES = 128 * 2**20
APPLICATIONS = "/api/serve/applications/"


class RayClusterError(Exception):
    """The cluster or an application on it did not come up; the message says where to look."""


@dataclass(frozen=True)
class RayCluster:
    """A running cluster.

    Attributes:
        process: `ray start --block`.
        api: where configurations are sent.
        log: the output of the process, Ray's own logs being in its session folder.
        access: environment variables with which a process may connect to it.
    """

    process: psutil.Popen
    api: httpx.Client = field(repr=False)
    log: Path
    access: Mapping[str, str] = field(repr=False)

    def deploy(self, config: Mapping[str, Any]) -> None:
        """What `serve deploy` does, and wait until it has been carried out.

        Args:
            config: ServeDeploySchema's fields.

        Raises:
            RayClusterError: an application failed, or was not running in time.
        """
        self.api.put(APPLICATIONS, json=dict(config)).raise_for_status()
        deadline = time.monotonic() + DEPLOY_SECONDS
        while time.monotonic() < deadline:
            applications = self.applications().values()
            if any(application["status"] == "DEPLOY_FAILED" for application in applications):
                raise RayClusterError(f"not deployed: {[a['message'] for a in applications]}; see {self.log}")
            if applications and all(_is_settled(application) for application in applications):
                return
            time.sleep(0.2)
        raise RayClusterError(f"not deployed after {DEPLOY_SECONDS} s; see {self.log}")

    def applications(self) -> Mapping[str, Any]:
        """Ray's own account of them."""
        details: Mapping[str, Any] = self.api.get(APPLICATIONS).raise_for_status().json()["applications"]
        return details

    def replicas(self, deployment: str) -> list[psutil.Process]:
        """The processes of one deployment's replicas."""
        title = f"ServeReplica:llamacpp:{deployment}"
        return [child for child in self.process.children(recursive=True) if title in _title(child)]

    def proxy(self) -> psutil.Process:
        """The process of the HTTP and gRPC proxy."""
        (found,) = (
            child
            for child in self.process.children(recursive=True)
            if _title(child).startswith("ProxyActor") and child.status() != psutil.STATUS_ZOMBIE
        )
        return found

    def log_of(self, deployment: str) -> str:
        """What the replicas of a deployment have written to standard error."""
        return "".join(Path(f"/proc/{replica.pid}/fd/2").read_text() for replica in self.replicas(deployment))


def _is_settled(application: Mapping[str, Any]) -> bool:
    """Whether it runs with the last configuration that was sent."""
    deployments = application["deployments"].values()
    return application["status"] == "RUNNING" and all(one["status"] == "HEALTHY" for one in deployments)


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()).removeprefix("ray::").split("(")[0].strip() + " "
    except psutil.Error:
        return ""


@contextmanager
def ray_cluster(cpus: int, log: Path) -> Iterator[RayCluster]:
    """A cluster on free ports of the loopback interface; stopped at the end, and nobody else's with it.

    Raises:
        RayClusterError: it did not come up in time.
    """
    port, dashboard_port = free_ports(2)
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block"]
    command += ["--node-ip-address", "127.0.0.1", "--port", str(port)]
    command += ["--dashboard-host", "127.0.0.1", "--dashboard-port", str(dashboard_port)]
    command += ["--dashboard-agent-listen-port", str(free_port())]
    command += ["--ray-client-server-port", str(free_port())]
    command += ["--num-cpus", str(cpus), "--object-store-memory", str(OBJECT_STORE_BYTES)]
    token = secrets.token_hex(16)
    access = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    environment = {**os.environ, **ENVIRONMENT, "RAY_USAGE_STATS_ENABLED": "0", **access}
    with log.open("w") as output:
        process = psutil.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
    try:
        headers = {"Authorization": f"Bearer {token}"}
        address = f"http://127.0.0.1:{dashboard_port}"
        with httpx.Client(base_url=address, headers=headers, timeout=60) as api:
            cluster = RayCluster(process, api, log, {"RAY_ADDRESS": f"127.0.0.1:{port}", **access})
            _wait_until_up(cluster)
            yield cluster
    finally:
        # It waits long for each of its own, so they are ended here.
        processes = [process, *process.children(recursive=True)]
        for one in reversed(processes):
            with suppress(psutil.NoSuchProcess):
                one.terminate()
        _, alive = psutil.wait_procs(processes, 5)
        for one in alive:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        process.wait()


def _wait_until_up(cluster: RayCluster) -> None:
    deadline = time.monotonic() + START_SECONDS
    problem: Exception | None = None
    while time.monotonic() < deadline and cluster.process.poll() is None:
        try:
            cluster.applications()
        except httpx.HTTPError as error:
            problem = error
            time.sleep(0.2)
        else:
            return
    raise RayClusterError(f"Ray did not start: {problem}\n{cluster.log.read_text()[-2000:]}")
