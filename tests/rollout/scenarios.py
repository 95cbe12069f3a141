"""The rollouts that are simulated: docs/rollouts.md has a table of them."""

from __future__ import annotations

from dataclasses import dataclass

from queueing import Behaviour, bursty, diurnal
from simulated_rollout import GOOD, Service


@dataclass(frozen=True)
class Scenario:
    """A canary at a service, as the table names it."""

    name: str
    service: Service
    canary: Behaviour = GOOD

    @property
    def is_good(self) -> bool:
        """Whether it ought to be promoted."""
        return self.canary == GOOD


GOOD_ONES = [
    Scenario("good, load 0.3", Service(load=0.3)),
    Scenario("good, load 0.66", Service()),
    Scenario("good, load 0.8", Service(load=0.8)),
    Scenario("good, one replica each, load 0.66", Service(replicas=1)),
    Scenario("good, steps 1, 50, 95, 100 of 6 replicas", Service(replicas=6, steps=(1, 50, 95, 100))),
    Scenario("good, stable keeps its replicas", Service(shrinks=False)),
    Scenario("good, load 0.66, some hours of a day", Service(rate=diurnal)),
    Scenario("good, load 0.5, bursts", Service(load=0.5, rate=bursty)),
    Scenario("good, load 0.66, bursts", Service(rate=bursty)),
]
BAD_ONES = [
    Scenario("5 points more errors, load 0.3", Service(load=0.3), Behaviour(errors=0.05)),
    Scenario("5 points more errors, load 0.66", Service(), Behaviour(errors=0.05)),
    Scenario("5 points more errors, steps 90, 100", Service(steps=(90, 100)), Behaviour(errors=0.05)),
    Scenario("all times 1.5 times as long, load 0.3", Service(load=0.3), Behaviour(slowness=1.5)),
    Scenario("all times 1.5 times as long, load 0.66", Service(), Behaviour(slowness=1.5)),
    Scenario("three places of four, load 0.5", Service(load=0.5), Behaviour(fewer_places=1)),
    Scenario("three places of four, load 0.66", Service(), Behaviour(fewer_places=1)),
    Scenario("10% hang until clients give up", Service(), Behaviour(hung=0.1)),
    Scenario("30% wait 200 s for a token", Service(), Behaviour(stalled=0.3)),
    Scenario("each process dies every 5 minutes", Service(), Behaviour(crash_s=300.0)),
]
