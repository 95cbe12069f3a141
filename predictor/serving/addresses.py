"""Where the server listens, and whom that lets in."""

from __future__ import annotations

import logging
import socket
from ipaddress import IPv4Address, IPv6Address

from predictor.cgroup import in_container
from predictor.documentation import page
from predictor.errors import StartupError
from predictor.settings import Settings, flag

logger = logging.getLogger(__name__)

LOOPBACK = IPv4Address("127.0.0.1")
EVERYWHERE = IPv4Address("0.0.0.0")


def listen_address(settings: Settings) -> IPv4Address | IPv6Address:
    """The address of all ports: what was asked for, else all networks only where something guards them.

    A container's network is its own, and nobody outside reaches its loopback, not even a probe.
    """
    if settings.host is not None:
        return settings.host
    return EVERYWHERE if settings.api_key_file is not None or in_container() else LOOPBACK


def warn_if_open(settings: Settings) -> None:
    """Say so where anybody on the network may call."""
    address = listen_address(settings)
    if settings.api_key_file is None and not address.is_loopback:
        logger.warning(
            "listening on %s without API keys: whoever reaches port %d may call; give %s, or %s %s for this "
            "machine alone (%s)",
            address,
            settings.http_port,
            flag("api_key_file"),
            flag("host"),
            LOOPBACK,
            page("security#who-reaches-it"),
        )


def local_url(settings: Settings) -> str:
    """Where a client on this machine finds the server."""
    scheme = "https" if settings.tls_cert_file else "http"
    address = listen_address(settings)
    host = "localhost" if address.is_loopback or address.is_unspecified else in_url(address)
    return f"{scheme}://{host}:{settings.http_port}"


def in_url(address: IPv4Address | IPv6Address) -> str:
    """An address as it stands before a colon and a port."""
    return f"[{address}]" if address.version == 6 else str(address)


def check_ports(settings: Settings) -> None:
    """Make sure that the address is this machine's and that its ports are free.

    gRPC would share a port that is in use without a word, and uvicorn finds out after the load.

    Raises:
        StartupError: one is in use, or the address is another machine's.
    """
    address = listen_address(settings)
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    _check_address(address, family)
    ports = {"http_port": settings.http_port, "open_port": settings.open_port}
    if settings.enable_grpc:
        ports["grpc_port"] = settings.grpc_port
    for field, port in ports.items():
        if port is None:
            continue
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((str(address), port))
            except OSError as error:
                raise StartupError(
                    f"port {port} can't be used ({error.strerror}): choose another with {flag(field)}"
                ) from error


def _check_address(address: IPv4Address | IPv6Address, family: socket.AddressFamily) -> None:
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((str(address), 0))
    except OSError as error:
        raise StartupError(
            f"{flag('host')} {address} can't be listened on ({error.strerror}): give an address of this "
            f"machine, or {EVERYWHERE} for all"
        ) from error
