"""`kserve-llamacpp doctor`."""

from __future__ import annotations

from importlib.util import find_spec

from predictor.doctor.finding import show
from predictor.errors import StartupError


def run_doctor(cluster: bool, context: str | None) -> bool:
    """Examine this machine, or a cluster, and show what was found.

    Returns:
        Whether there was no problem.

    Raises:
        StartupError: the cluster can't be reached.
    """
    from rich.console import Console

    console = Console(highlight=False)
    if not cluster:
        from predictor.doctor.machine import examine_machine

        return show(examine_machine(), console)
    if find_spec("kubernetes") is None:
        raise StartupError("looking at a cluster needs an extra: pip install 'kserve-llamacpp[rollout]'")
    from kubernetes.client import ApiException
    from kubernetes.config import ConfigException
    from urllib3.exceptions import HTTPError

    from predictor.doctor.cluster import connect, examine_cluster

    try:
        return show(examine_cluster(connect(context)), console)
    except (ConfigException, ApiException, HTTPError) as error:
        raise StartupError(f"the cluster can't be reached: {error}") from None
