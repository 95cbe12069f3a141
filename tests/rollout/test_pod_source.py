"""Scraping pods through the API server."""

from __future__ import annotations

from threading import Barrier

import pytest
from pod_api import NAMESPACE

from rollout.analysis.sources import PodSource, SourceUnavailable
from rollout.pods import Pods, PodStatus, PodUnreachable
from rollout.verdict import Revision

CANARY = Revision("smol-2", "smol", NAMESPACE, 25, "rev=2", "smol")
TEXT = 'kserve_llamacpp_num_requests_running{model_name="m"} 2\n'


class Together(Pods):
    """Pods that answer once all of them are asked."""

    def __init__(self, count: int, silent: frozenset[str] = frozenset()) -> None:
        self._names = [f"pod-{number}" for number in range(count)]
        self._silent = silent
        self._barrier = Barrier(count)

    def of(self, revision: Revision) -> list[PodStatus]:
        return [PodStatus(name, True, 3) for name in self._names]

    def get(self, namespace: str, pod: str, path: str) -> str:
        self._barrier.wait(timeout=20)
        if pod in self._silent:
            raise PodUnreachable(f"{pod} is silent")
        return TEXT


def test_pods_are_asked_at_the_same_time() -> None:
    looks = PodSource(Together(8)).read(CANARY)
    assert {look.in_hand for look in looks.values()} == {2}
    assert {look.restarts for look in looks.values()} == {3}


def test_one_pod_that_does_not_answer_hides_no_other() -> None:
    looks = PodSource(Together(3, frozenset({"pod-1"}))).read(CANARY)
    assert [look.counters is None for look in looks.values()] == [False, True, False]
    with pytest.raises(SourceUnavailable, match="pod-0 is silent"):
        PodSource(Together(2, frozenset({"pod-0", "pod-1"}))).read(CANARY)
