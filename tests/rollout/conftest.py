"""A cluster for rollouts: a real API server for custom resources, and stand-ins for the rest."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from cluster_front import ClusterFront, running_front
from crd_server import CrdServer
from kserve_stand_in import KServeStandIn, running_stand_in
from rollout_bench import Bench
from worse_models import q2_k, q3_k_m


@pytest.fixture(scope="session")
def kserve(crd_server: CrdServer) -> Iterator[KServeStandIn]:
    """The stand-in for KServe's controller."""
    with running_stand_in(crd_server.client) as stand_in:
        yield stand_in


@pytest.fixture(scope="session")
def _front(crd_server: CrdServer) -> Iterator[ClusterFront]:
    with running_front(crd_server.url, crd_server.tls) as front:
        yield front


@pytest.fixture
def front(_front: ClusterFront) -> Iterator[ClusterFront]:
    """The address of the cluster, without faults."""
    _front.reset()
    yield _front
    _front.reset()


@pytest.fixture
def bench(
    front: ClusterFront, kserve: KServeStandIn, crd_server: CrdServer, tmp_path: Path
) -> Iterator[Bench]:
    """A namespace of its own, with what tests do in it."""
    namespace = f"rollout-{uuid.uuid4().hex[:8]}"
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(front.kubeconfig(namespace)))
    bench = Bench(namespace, kubeconfig, front, kserve, crd_server)
    kserve.awake.set()
    yield bench
    kserve.awake.clear()
    bench.delete()


@pytest.fixture(params=["Standard", "Knative"])
def mode(request: pytest.FixtureRequest) -> str:
    """Both of KServe's canary mechanisms."""
    return str(request.param)


@pytest.fixture(scope="session")
def worse_model_path(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A spoilt copy of the demo model."""
    return q2_k(model_path, tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def other_model_path(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the demo model that gives other answers, hardly worse ones."""
    return q3_k_m(model_path, tmp_path_factory.mktemp("models"))
