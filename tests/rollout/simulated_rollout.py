"""Rollouts of a modelled service, judged by the real `TrafficJudge` on a clock of their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import ceil

import numpy as np
from queueing import (
    LOOK_S,
    MEAN_SERVICE_S,
    WARM_UP_S,
    Behaviour,
    Clients,
    Looks,
    Rate,
    Requests,
    arrivals,
    chunks,
    of_run,
    serve,
    steady,
)

from rollout.analysis.counters import PodLook
from rollout.analysis.judge import TrafficJudge
from rollout.analysis.limits import Limits
from rollout.plan import Plan
from rollout.result import Outcome
from rollout.verdict import Decision, Revision

GOOD = Behaviour()
# The traffic of so many rollouts is made at once, which is many times faster; more need too much memory.
AT_ONCE = 20


@dataclass(frozen=True)
class Service:
    """What is rolled out, and where.

    Attributes:
        replicas: of the stable revision before the rollout.
        places: requests that a replica serves at a time.
        load: share of the places that is busy before the rollout.
        rate: how traffic comes.
        shrinks: whether an autoscaler takes the stable revision's replicas away with its traffic.
        steps: of the rollout.
        step_s: how long a step may last.
        lost: share of looks at which a pod's metrics can't be had.
    """

    replicas: int = 4
    places: int = 4
    load: float = 0.66
    rate: Rate = steady
    shrinks: bool = True
    steps: tuple[int, ...] = (5, 25, 50, 100)
    step_s: float = 3600.0
    lost: float = 0.02
    clients: Clients = field(default_factory=Clients)

    @property
    def per_s(self) -> float:
        """Requests a second, of the whole service."""
        return self.replicas * self.places * self.load / MEAN_SERVICE_S


@dataclass
class Ended:
    """How a rollout ended.

    Attributes:
        percent: the canary's share then.
        requests: of the canary, in each step that was judged.
        why: the verdict's reasons.
    """

    outcome: Outcome
    percent: int
    requests: dict[int, float]
    seconds: dict[int, float]
    why: tuple[str, ...]


class _Source:
    def __init__(self) -> None:
        self.pods: Mapping[str, Mapping[str, PodLook]] = {}

    def read(self, revision: Revision) -> Mapping[str, PodLook]:
        return self.pods[revision.name]


def rollouts(service: Service, canary: Behaviour, runs: int, seed: int) -> Iterator[Ended]:
    """So many rollouts."""
    for part, size in enumerate(chunks(runs, AT_ONCE)):
        yield from some_rollouts(service, canary, size, (seed, part))


def some_rollouts(service: Service, canary: Behaviour, runs: int, seed: tuple[int, int]) -> Iterator[Ended]:
    """`AT_ONCE` of them, or what is left; the seed's second number says which."""
    random = np.random.default_rng(seed)
    steps = [traffic(service, canary, percent, runs, random) for percent in (0, *service.steps)]
    for run in range(runs):
        yield _rollout(service, canary, [step[run] for step in steps], random)


Sides = tuple[Requests, Requests | None]


def traffic(
    service: Service, canary: Behaviour, percent: int, runs: int, random: np.random.Generator
) -> list[Sides]:
    """What happens at both revisions' replicas in one step of each of so many rollouts."""
    end = WARM_UP_S + (service.step_s if percent else Plan().interval_s)
    rates = [service.rate(random, end) for _ in range(runs)]
    sides = []
    for share, behaviour, shrinks in ((100 - percent, GOOD, service.shrinks), (percent, canary, True)):
        pods = pods_for(service, share, shrinks=shrinks)
        if not share:
            sides.append([None] * runs)
            continue
        arrived = arrivals(random, rates, pods, service.per_s * share / 100 / pods, end)
        served = serve(random, arrived, service.places, behaviour, service.clients)
        for times in (served.arrived, served.admitted, served.first, served.ended, served.gave_up):
            times -= WARM_UP_S
        sides.append([of_run(served, slice(run * pods, (run + 1) * pods)) for run in range(runs)])
    return list(zip(*sides, strict=True))


def pods_for(service: Service, share: int, *, shrinks: bool) -> int:
    """A revision's replicas for its share of the traffic."""
    return max(1, ceil(service.replicas * share / 100)) if shrinks else service.replicas


def _rollout(service: Service, canary: Behaviour, traffic: list[Sides], random: np.random.Generator) -> Ended:
    source, now = _Source(), 0.0
    plan = Plan(service.steps)
    judge = TrafficJudge(source, Limits(), plan, lambda: now)
    requests: dict[int, float] = {}
    seconds: dict[int, float] = {}
    for percent, sides in zip((0, *service.steps), traffic, strict=True):
        lasts = service.step_s if percent else plan.interval_s
        count = int(lasts / LOOK_S) + 1
        looks = [
            _looks(random, side, canary if number else GOOD, count, service)
            for number, side in enumerate(sides)
        ]
        revisions = _revision("stable", 100 - percent), _revision("canary", percent)
        for look in range(count):
            source.pods = {
                name: found.at(look) if found else {}
                for name, found in zip(("stable", "canary"), looks, strict=True)
            }
            verdict = judge.judge(*revisions, look * LOOK_S)
            requests[percent] = next((f.samples or 0 for f in verdict.figures), 0)
            seconds[percent] = look * LOOK_S
            now += LOOK_S
            if verdict.decision is Decision.ROLL_BACK:
                return Ended(Outcome.ROLLED_BACK, percent, requests, seconds, verdict.reasons)
            if verdict.decision is Decision.PROCEED and look * LOOK_S >= plan.interval_s:
                break
        else:
            return Ended(Outcome.PAUSED, percent, requests, seconds, verdict.reasons)
    return Ended(Outcome.PROMOTED, 100, requests, seconds, verdict.reasons)


def _looks(
    random: np.random.Generator, side: Requests | None, behaviour: Behaviour, count: int, service: Service
) -> Looks | None:
    if side is None:
        return None
    if behaviour.crash_s:
        side.crashes = [
            np.cumsum(random.exponential(behaviour.crash_s, 2 + int(3 * count * LOOK_S / behaviour.crash_s)))
            for _ in range(len(side.arrived))
        ]
    return Looks(random, side, count, service.lost)


def _revision(name: str, percent: int) -> Revision:
    return Revision(name, "chat", "models", percent, "", "chat")
