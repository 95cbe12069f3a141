"""The cluster that KUBECONFIG points to. Nothing of it is faked; without one these tests don't run."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator

import pytest
from live_cluster import Cluster

NO_CLUSTER = (
    "KUBECONFIG is not set; it has to point to a cluster with KServe 0.21, as docs/kubernetes.md sets one up"
)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A namespace of its own with the runtime installed; removed at the end.

    KSERVE_LLAMACPP_IMAGE names the image if it isn't kserve-llamacpp:0.1.0.
    """
    if not os.environ.get("KUBECONFIG"):
        pytest.skip(NO_CLUSTER)
    cluster = Cluster(f"kserve-llamacpp-{uuid.uuid4().hex[:8]}", os.environ.get("KSERVE_LLAMACPP_IMAGE"))
    cluster.kubectl("create", "namespace", cluster.namespace)
    try:
        cluster.apply_folder("manifests/storage")
        cluster.apply_folder("runtimes/kserve/namespaced/cpu")
        yield cluster
    finally:
        cluster.kubectl("delete", "namespace", cluster.namespace, "--wait=false")
