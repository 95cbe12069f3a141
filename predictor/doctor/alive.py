"""Exit status 0 where this container's server is alive: the image's HEALTHCHECK, which Docker runs beside it.

Imports next to nothing, since it runs every half minute. Options are read from the first process's command
line and from the environment, as the server reads them.
"""

from __future__ import annotations

import os
import ssl
import sys
from collections.abc import Mapping, Sequence
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path

SECONDS = 5
FIRST_PROCESS = Path("/proc/1/cmdline")


def option(name: str, arguments: Sequence[str], environment: Mapping[str, str]) -> str | None:
    """The value of an option, by its flag in either spelling, else by its variable."""
    given = environment.get(f"LLAMACPP_{name.upper()}")
    for index, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if flag.replace("_", "-") == f"--{name}".replace("_", "-"):
            given = value if equals else next(iter(arguments[index + 1 :]), None)
    return given or None


def is_alive(arguments: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Whether the server on this machine answers."""
    # A port of its own for health has neither TLS nor keys.
    open_port = option("open_port", arguments, environment)
    port = int(open_port or option("http_port", arguments, environment) or 8080)
    connection = HTTPConnection("localhost", port, timeout=SECONDS)
    if open_port is None and option("tls_cert_file", arguments, environment):
        # Whose certificate it is doesn't matter here: it is this container's own server.
        unverified = ssl._create_unverified_context()  # noqa: S323
        connection = HTTPSConnection("localhost", port, timeout=SECONDS, context=unverified)
    try:
        connection.request("GET", "/v2/health/live")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    words = FIRST_PROCESS.read_bytes().decode(errors="replace").split("\0")
    sys.exit(0 if is_alive(words, os.environ) else 1)
