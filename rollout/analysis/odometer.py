"""From looks at a revision's pods to what happened between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from rollout.analysis.counters import Counters, PodLook

# A process that tells its start rounds it.
_SAME_START_S = 1.0
# A pod whose metrics haven't been seen for so long may hide anything.
SILENT_S = 60.0


@dataclass(frozen=True, slots=True)
class Stretch:
    """What happened between two looks.

    Attributes:
        counters: summed over the pods.
        pods: how many were seen.
        waiting: requests in the queue at its end, mean per pod.
        silent: ready pods whose metrics weren't seen for `SILENT_S`.
    """

    counters: Counters = field(default_factory=Counters)
    pods: int = 0
    waiting: float = 0.0
    silent: tuple[str, ...] = ()


@dataclass(slots=True)
class _Last:
    """A pod's last look with metrics, when that was, and the containers' restarts that are counted."""

    look: PodLook
    at: float
    restarts: int | None


class Odometer:
    """Reads one revision's pods.

    A pod's first look is its zero, so that requests from before the step don't count. When a process ends,
    what it had in hand at the last look is lost. What it counted after that is never known.
    """

    def __init__(self) -> None:
        self._last: dict[str, _Last] = {}
        self._first_seen: dict[str, float] = {}

    def advance(self, pods: Mapping[str, PodLook], now: float) -> Stretch:
        """What happened since the last call.

        Args:
            pods: by name.
            now: monotonic seconds.
        """
        total = sum((self._of_pod(pod, look, now) for pod, look in pods.items()), Counters())
        seen = [look for look in pods.values() if look.counters is not None]
        ready = (pod for pod, look in pods.items() if look.ready)
        silent = tuple(pod for pod in ready if now - self._seen_at(pod) > SILENT_S)
        waiting = sum(look.waiting for look in seen) / max(1, len(seen))
        return Stretch(total, len(seen), waiting, silent)

    def _seen_at(self, pod: str) -> float:
        return self._last[pod].at if pod in self._last else self._first_seen[pod]

    def _of_pod(self, pod: str, look: PodLook, now: float) -> Counters:
        self._first_seen.setdefault(pod, now)
        last = self._last.get(pod)
        if last is None:
            if look.counters is not None:
                self._last[pod] = _Last(look, now, look.restarts)
            return Counters()
        deaths = 0
        if look.restarts is not None and last.restarts is not None:
            deaths = max(0, look.restarts - last.restarts)
        if look.restarts is not None:
            last.restarts = look.restarts
        if look.counters is None:
            # The process is gone already; its successor will be seen to be another one.
            lost = last.look.in_hand if deaths else 0.0
            if deaths:
                self._last[pod] = _Last(PodLook(Counters()), last.at, last.restarts)
            return Counters(bad=lost, deaths=deaths)
        passed = Counters(deaths=deaths, pod_seconds=now - last.at)
        ended = _is_another(look, last.look, bool(deaths))
        self._last[pod] = _Last(look, now, last.restarts)
        if not ended:
            assert last.look.counters is not None
            return passed + (look.counters - last.look.counters)
        return replace(passed, deaths=max(1, deaths), bad=last.look.in_hand) + look.counters


def _is_another(look: PodLook, last: PodLook, restarted: bool) -> bool:
    """Whether a new process is counting: it began later, or where that isn't told a counter went back.

    Args:
        restarted: whether a container of the pod has; it may be another one than the predictor's.
    """
    assert look.counters is not None
    assert last.counters is not None
    if look.started and last.started:
        return look.started > last.started + _SAME_START_S
    now, before = look.counters, last.counters
    fell = now.good < before.good or now.bad < before.bad or now.waited.count < before.waited.count
    return restarted or fell
