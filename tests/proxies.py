"""Proxies in front of a server, which cut what is silent for too long: nginx and Envoy."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import yaml
from polling import wait_until

from scripts.free_ports import free_ports

NGINX = """
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log;
events {{}}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass {url};
      proxy_http_version 1.1;
      proxy_read_timeout {seconds}s;
    }}
  }}
}}
"""


def nginx_command() -> str | None:
    """Where nginx is, None where it isn't installed."""
    return shutil.which("nginx") or shutil.which("/usr/sbin/nginx")


@contextmanager
def nginx(url: str, folder: Path, *, idle_seconds: int) -> Iterator[str]:
    """The URL of an nginx before `url` that waits so long for the next byte of an answer."""
    command = nginx_command()
    assert command is not None
    [port] = free_ports(1)
    configuration = folder / "nginx.conf"
    configuration.write_text(NGINX.format(folder=folder, port=port, url=url, seconds=idle_seconds))
    with _running(
        [command, "-p", str(folder), "-c", str(configuration)], folder / "nginx.out", port
    ) as front:
        yield front


@contextmanager
def envoy(url: str, folder: Path, *, idle_seconds: int) -> Iterator[str]:
    """The URL of an Envoy before `url` that ends a stream on which nothing came for so long."""
    [port] = free_ports(1)
    configuration = folder / "envoy.yaml"
    configuration.write_text(yaml.safe_dump(_envoy_configuration(port, url, idle_seconds)))
    binary = Path(sys.executable).with_name("envoy")
    command = [str(binary), "--config-path", str(configuration), "--concurrency", "1", "--log-level", "warn"]
    with _running([*command, "--base-id", str(port)], folder / "envoy.log", port) as front:
        yield front


@contextmanager
def _running(command: list[str], log: Path, port: int) -> Iterator[str]:
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    front = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: _answers(front), process=process, log=log)
        yield front
    finally:
        process.terminate()
        process.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def _envoy_configuration(port: int, url: str, idle_seconds: int) -> dict[str, Any]:
    types = "type.googleapis.com/envoy.extensions.filters"
    router = {"@type": f"{types}.http.router.v3.Router"}
    route = {"cluster": "server", "timeout": "0s", "idle_timeout": f"{idle_seconds}s"}
    host = {
        "name": "server",
        "domains": ["*"],
        "routes": [{"match": {"prefix": "/"}, "route": route}],
    }
    manager = {
        "@type": f"{types}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "users",
        "stream_idle_timeout": f"{idle_seconds}s",
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": router}],
        "route_config": {"virtual_hosts": [host]},
    }
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    endpoint = {"endpoint": {"address": _address(urlsplit(url).port or 80)}}
    cluster = {
        "name": "server",
        "connect_timeout": "5s",
        "load_assignment": {"cluster_name": "server", "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
    listener = {"address": _address(port), "filter_chains": [{"filters": filters}]}
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}
