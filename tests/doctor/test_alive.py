"""The image's health check, on real servers."""

from __future__ import annotations

from server_process import Server

from predictor.doctor.alive import is_alive, option
from scripts.free_ports import free_port


def test_a_server_and_nobody(server: Server) -> None:
    port = server.http_url.rpartition(":")[2]
    assert is_alive(["kserve-llamacpp", "serve", "m", f"--http_port={port}"], {})
    assert is_alive([], {"LLAMACPP_HTTP_PORT": port})
    assert not is_alive([], {"LLAMACPP_HTTP_PORT": str(free_port())})


def test_options_as_the_server_reads_them() -> None:
    assert option("http_port", ["--http-port", "1"], {"LLAMACPP_HTTP_PORT": "2"}) == "1"
    assert option("http_port", ["--http_port=1"], {}) == "1"
    assert option("http_port", [], {"LLAMACPP_HTTP_PORT": "2"}) == "2"
    assert option("http_port", ["--http-port"], {}) is None
