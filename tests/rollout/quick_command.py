"""`kserve-llamacpp rollout` with shorter pauses: in this process, or as one of its own that can be killed."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rollout import cli
from rollout.rollout import Rollout

PROGRAM = (sys.executable, "-m", "quick_command")


class QuickRollout(Rollout):
    """Looks twenty times a second, and is soon sure that traffic is back."""

    def __init__(self, *where: Any, **options: Any) -> None:
        super().__init__(*where, **options, poll_s=0.05, hold_s=0.1)


def run_here(kubeconfig: Path, *arguments: str) -> tuple[int, str, str]:
    """Run a command in this process: status, output, errors."""
    of_sigterm = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rollout.cli.Rollout", QuickRollout)
        patch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(kubeconfig))
        try:
            result = CliRunner().invoke(cli.app, arguments, env={"COLUMNS": "200"}, catch_exceptions=False)
        finally:
            signal.signal(signal.SIGTERM, of_sigterm)
    return result.exit_code, result.stdout, result.stderr


if __name__ == "__main__":
    cli.Rollout = QuickRollout  # type: ignore[misc]
    cli.app(args=sys.argv[1:], prog_name="kserve-llamacpp rollout")
