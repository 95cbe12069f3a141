"""Install packages into this Python's environment, in the versions of constraints.txt.

    install_packages.py REQUIREMENT...     as for `pip install`; a wheel's file is installed again

uv does it where it can be had, in a fraction of pip's time, and with pip's settings, which it doesn't read by
itself. Otherwise pip does.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "constraints.txt"
# What pip calls a setting, and uv's variable for it with what stands between several values.
SETTINGS = {
    "index-url": ("UV_DEFAULT_INDEX", " "),
    "extra-index-url": ("UV_INDEX", " "),
    "find-links": ("UV_FIND_LINKS", ","),
    "trusted-host": ("UV_INSECURE_HOST", " "),
    "no-index": ("UV_NO_INDEX", " "),
    "cert": ("SSL_CERT_FILE", " "),
    "proxy": ("ALL_PROXY", " "),
    "timeout": ("UV_HTTP_TIMEOUT", " "),
    "default-timeout": ("UV_HTTP_TIMEOUT", " "),
}


def uv_settings(listing: str) -> dict[str, str]:
    """Variables for uv from the output of `pip config list`; the environment wins over files."""
    lines = [line.partition("=") for line in listing.splitlines()]
    values = {name: str(ast.literal_eval(value)) for name, _, value in lines if value}
    return {
        variable: between.join(values[name].split())
        for section in ("global", "install", ":env:")
        for key, (variable, between) in SETTINGS.items()
        if (name := f"{section}.{key}") in values
    }


def pip(*arguments: str, quiet: bool = False) -> subprocess.CompletedProcess[str]:
    """Run pip; its version decides which of the variables pins build tools."""
    constraints = {"PIP_CONSTRAINT": str(CONSTRAINTS), "PIP_BUILD_CONSTRAINT": str(CONSTRAINTS)}
    return subprocess.run(
        [sys.executable, "-m", "pip", *arguments],
        env=os.environ | constraints,
        stdout=subprocess.PIPE if quiet else None,
        stderr=subprocess.DEVNULL if quiet else None,
        text=True,
    )


def has_uv() -> bool:
    """Whether uv is in this environment or can be put there."""
    return pip("install", "--quiet", "--only-binary", ":all:", "uv", quiet=True).returncode == 0


def install(requirements: list[str]) -> int:
    """Install, and give the exit status."""
    wheels = [requirement for requirement in requirements if requirement.endswith(".whl")]
    if not has_uv():
        print("uv can't be had here, so pip installs, which takes longer", file=sys.stderr)
        again = ["--no-deps", "--force-reinstall", *wheels]
        failed = pip("install", "--quiet", *again).returncode if wheels else 0
        return failed or pip("install", "--quiet", *requirements).returncode
    again = [f"--reinstall-package={Path(wheel).name.partition('-')[0]}" for wheel in wheels]
    constraints = ["--constraints", str(CONSTRAINTS), "--build-constraints", str(CONSTRAINTS)]
    # As pip does, look for a version in all indexes, not in the first that has the name.
    strategy = {"UV_INDEX_STRATEGY": "unsafe-best-match"}
    settings = uv_settings(pip("config", "list", quiet=True).stdout)
    command = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", sys.executable]
    return subprocess.run(
        [*command, *constraints, *again, *requirements], env=strategy | settings | os.environ
    ).returncode


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.exit(install(sys.argv[1:]))
