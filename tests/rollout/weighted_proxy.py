"""Envoy in front of two servers, sharing requests out by weights that can be set while it runs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import yaml
from polling import wait_until

from scripts.free_ports import free_ports


@dataclass(frozen=True)
class WeightedProxy:
    """A running Envoy.

    Attributes:
        url: where clients send requests.
        admin: Envoy's own interface.
    """

    url: str
    admin: str

    def share(self, canary_percent: int) -> None:
        """Give the canary so many percent of the requests from now on."""
        weights = {"canary.canary": canary_percent, "canary.stable": 100 - canary_percent}
        httpx.post(f"{self.admin}/runtime_modify", params=weights).raise_for_status()


@contextmanager
def running_proxy(stable: str, canary: str, folder: Path) -> Iterator[WeightedProxy]:
    """Envoy in front of two base URLs; everything goes to the first until told otherwise."""
    port, admin_port = free_ports(2)
    (folder / "envoy.yaml").write_text(yaml.safe_dump(_configuration(port, admin_port, stable, canary)))
    command = [
        str(Path(sys.executable).with_name("envoy")),
        "--config-path",
        str(folder / "envoy.yaml"),
        "--concurrency",
        "1",
        "--log-level",
        "warn",
    ]
    with (folder / "envoy.log").open("w") as log:
        process = subprocess.Popen([*command, "--base-id", str(port)], stdout=log, stderr=log)
    try:
        proxy = WeightedProxy(f"http://127.0.0.1:{port}", f"http://127.0.0.1:{admin_port}")
        wait_until(lambda: _is_ready(proxy), process=process, log=folder / "envoy.log")
        yield proxy
    finally:
        process.terminate()
        process.wait()


def _is_ready(proxy: WeightedProxy) -> bool:
    try:
        return httpx.get(f"{proxy.admin}/ready").status_code == 200
    except httpx.TransportError:
        return False


def _configuration(port: int, admin_port: int, stable: str, canary: str) -> dict[str, Any]:
    clusters = [{"name": "stable", "weight": 100}, {"name": "canary", "weight": 0}]
    manager = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3"
        ".HttpConnectionManager",
        "stat_prefix": "users",
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
                },
            }
        ],
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "service",
                    "domains": ["*"],
                    "routes": [
                        {
                            "match": {"prefix": "/"},
                            "route": {
                                "timeout": "0s",
                                "weighted_clusters": {"clusters": clusters, "runtime_key_prefix": "canary"},
                            },
                        }
                    ],
                }
            ]
        },
    }
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    return {
        "admin": {"address": _address(admin_port)},
        "layered_runtime": {"layers": [{"name": "admin", "admin_layer": {}}]},
        "static_resources": {
            "listeners": [{"address": _address(port), "filter_chains": [{"filters": filters}]}],
            "clusters": [_cluster("stable", stable), _cluster("canary", canary)],
        },
    }


def _cluster(name: str, url: str) -> dict[str, Any]:
    endpoint = {"endpoint": {"address": _address(urlsplit(url).port or 80)}}
    return {
        "name": name,
        "connect_timeout": "5s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}
