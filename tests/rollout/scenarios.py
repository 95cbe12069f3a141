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


# 40 minutes a step: where there is no verdict by then, the rollout counts as undecided.
STEP_S = 2400.0


def _service(**changes: object) -> Service:
    return Service(step_s=STEP_S, **changes)  # type: ignore[arg-type]


GOOD_ONES = [
    Scenario("good, load 0.3", _service(load=0.3)),
    Scenario("good, load 0.66", _service()),
    Scenario("good, load 0.8", _service(load=0.8)),
    Scenario("good, one replica each, load 0.66", _service(replicas=1)),
    Scenario("good, steps 1, 50, 95, 100 of 6 replicas", _service(replicas=6, steps=(1, 50, 95, 100))),
    Scenario("good, stable keeps its replicas", _service(shrinks=False)),
    Scenario("good, load 0.66, some hours of a day", _service(rate=diurnal)),
    Scenario("good, load 0.5, bursts", _service(load=0.5, rate=bursty)),
    Scenario("good, load 0.66, bursts", _service(rate=bursty)),
]
BAD_ONES = [
    Scenario("5 points more errors, load 0.3", _service(load=0.3), Behaviour(errors=0.05)),
    Scenario("5 points more errors, load 0.66", _service(), Behaviour(errors=0.05)),
    Scenario("5 points more errors, steps 90, 100", _service(steps=(90, 100)), Behaviour(errors=0.05)),
    Scenario("all times 1.5 times as long, load 0.3", _service(load=0.3), Behaviour(slowness=1.5)),
    Scenario("all times 1.5 times as long, load 0.66", _service(), Behaviour(slowness=1.5)),
    Scenario("10% hang until clients give up", _service(), Behaviour(hung=0.1)),
    Scenario("30% wait 200 s for a token", _service(), Behaviour(stalled=0.3)),
    Scenario("each process dies every 5 minutes", _service(), Behaviour(crash_s=300.0)),
]
