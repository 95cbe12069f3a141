"""Where the server listens: on this machine alone unless somebody asked for more, or something guards it."""

from __future__ import annotations

import socket
from ipaddress import ip_address
from pathlib import Path

import psutil
import pytest
from polling import wait_until
from server_process import started_server

from predictor.serving import addresses
from predictor.serving.addresses import check_ports, listen_address, local_url, warn_if_open
from predictor.settings import Settings
from scripts.free_ports import free_port


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text("0123456789abcdef")
    return path


@pytest.mark.parametrize("contained", [False, True])
@pytest.mark.parametrize("keyed", [False, True])
def test_it_is_open_by_default_only_in_a_container_or_with_keys(
    monkeypatch: pytest.MonkeyPatch, key_file: Path, contained: bool, keyed: bool
) -> None:
    monkeypatch.setattr(addresses, "in_container", lambda: contained)
    settings = Settings(model="m", api_key_file=key_file if keyed else None)
    assert str(listen_address(settings)) == ("0.0.0.0" if contained or keyed else "127.0.0.1")


@pytest.mark.parametrize(
    ("host", "keyed", "warned"),
    [
        ("127.0.0.1", False, False),
        ("::1", False, False),
        ("0.0.0.0", False, True),
        ("::", False, True),
        ("10.1.2.3", False, True),
        ("0.0.0.0", True, False),
    ],
)
def test_a_server_that_lets_everybody_in_says_so(
    caplog: pytest.LogCaptureFixture, key_file: Path, host: str, keyed: bool, warned: bool
) -> None:
    warn_if_open(Settings(model="m", host=host, api_key_file=key_file if keyed else None))
    messages = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [message.startswith(f"listening on {host} without API keys") for message in messages] == (
        [True] if warned else []
    )


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("0.0.0.0", "http://localhost:8080"),
        ("127.0.0.1", "http://localhost:8080"),
        ("10.1.2.3", "http://10.1.2.3:8080"),
        ("fd00::1", "http://[fd00::1]:8080"),
    ],
)
def test_the_ready_line_has_an_address_that_a_browser_takes(host: str, url: str) -> None:
    assert local_url(Settings(model="m", host=host)) == url


def test_an_address_of_another_machine() -> None:
    settings = Settings(model="m", host="192.0.2.1", http_port=free_port(), grpc_port=free_port())
    with pytest.raises(addresses.StartupError, match=r"--host 192\.0\.2\.1 can't be listened on"):
        check_ports(settings)


def test_a_port_that_only_another_address_uses_is_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        settings = Settings(model="m", host="127.0.0.2", http_port=port, enable_grpc=False)
        check_ports(settings)
        with pytest.raises(addresses.StartupError, match=f"port {port} can't be used"):
            check_ports(settings.model_copy(update={"host": ip_address("127.0.0.1")}))


@pytest.mark.parametrize("host", ["127.0.0.2", "::"])
def test_every_port_listens_there_and_nowhere_else(model_path: Path, tmp_path: Path, host: str) -> None:
    if host == "::" and not has_ipv6():
        pytest.skip("this machine has no IPv6")
    open_port = free_port()
    options = ("--host", host, "--open-port", str(open_port))
    with started_server(model_path, tmp_path / "log", *options) as server:
        ports = {int(url.rpartition(":")[2]) for url in (server.http_url, server.grpc_url)} | {open_port}
        process = psutil.Process(server.process.pid)
        wait_until(
            lambda: {port for _, port in listening(process)} == ports, process=server.process, log=server.log
        )
        found = {address.removeprefix("::ffff:") for address, _ in listening(process)}
        assert found == ({"127.0.0.2"} if host == "127.0.0.2" else {"0.0.0.0", "::"})
        for port in ports:
            with socket.create_connection((host if host != "::" else "127.0.0.1", port), timeout=10):
                pass


def listening(process: psutil.Process) -> set[tuple[str, int]]:
    sockets = process.connections("inet")
    return {(one.laddr.ip, one.laddr.port) for one in sockets if one.status == psutil.CONN_LISTEN}


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False
