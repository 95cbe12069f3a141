"""What the canary's figures are held to, and how sure a decision has to be."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from rollout.errors import RolloutError

OFF = "off"
_NUMBER = r"(\d+(?:\.\d+)?)"
_STABLE = re.compile(rf"(?:{_NUMBER}\s*[*x]\s*)?stable")
_CONSTANT = re.compile(rf"{_NUMBER}\s*(%|ms|s|/h|)")


class Kind(Enum):
    """What a figure is measured in: the units that its limits may have, and how they are written."""

    SHARE = ({"%": 0.01, "": 1.0}, "'2%', 'stable + 1%'")
    TIME = ({"ms": 0.001, "s": 1.0}, "'300ms', '1.2 * stable + 50ms'")
    FREQUENCY = ({"/h": 1.0}, "'1/h', 'stable + 0.2/h'")


@dataclass(frozen=True, slots=True)
class Limit:
    """`ratio` times the stable revision's figure, and `plus` on top; `ratio` 0 makes it absolute.

    Attributes:
        plus: a share of 1, or seconds.
        text: as it was written.
    """

    ratio: float
    plus: float
    text: str

    def at(self, stable: float) -> float:
        """The limit beside a figure of the stable revision."""
        return self.ratio * stable + self.plus


@dataclass(frozen=True, slots=True)
class Limits:
    """What the canary's figures are held to; None leaves a figure out of the decision.

    Attributes:
        error_rate: of requests.
        first_token, inter_token, queue: of the 95th percentiles, in seconds.
        deaths: of processes, per hour that a pod runs.
        roll_back_risk: what the probability is meant to be at most, in one rollout, of rolling back a canary
            that keeps all limits.
        proceed_risk: the same, in one step, of letting a canary pass that is far beyond one limit (see
            `FAR_ERRORS` and the others in rollout.analysis.measures).
        least_requests: no decision on fewer of the canary's requests.
    """

    error_rate: Limit | None = Limit(1, 0.01, "stable + 1%")
    first_token: Limit | None = Limit(1.2, 0.05, "1.2 * stable + 50ms")
    inter_token: Limit | None = Limit(1.2, 0.01, "1.2 * stable + 10ms")
    queue: Limit | None = Limit(1.2, 0.2, "1.2 * stable + 200ms")
    deaths: Limit | None = Limit(1, 0.2, "stable + 0.2/h")
    roll_back_risk: float = 0.01
    proceed_risk: float = 0.05
    least_requests: int = 20

    def given(self) -> list[Limit]:
        """Those that there are."""
        found = (self.error_rate, self.first_token, self.inter_token, self.queue, self.deaths)
        return [limit for limit in found if limit is not None]

    def __post_init__(self) -> None:
        for name in ("roll_back_risk", "proceed_risk"):
            if not 0 < getattr(self, name) < 1:
                raise RolloutError(f"{name} is a probability between 0 and 1, not {getattr(self, name)}")


def parse_limit(text: str, kind: Kind) -> Limit | None:
    """A limit as people write it: `2%`, `300ms`, `stable + 1%`, `1.2 * stable + 0.1s`; None for `off`.

    Raises:
        RolloutError: it has another form, or a unit that the figure isn't measured in, or it is a share of 1
            or more.
    """
    if text.strip() == OFF:
        return None
    units, examples = kind.value
    ratio = plus = 0.0
    for term in text.split("+"):
        constant = _CONSTANT.fullmatch(term.strip())
        if match := _STABLE.fullmatch(term.strip()):
            ratio += float(match[1] or 1)
        elif constant and constant[2] in units:
            plus += float(constant[1]) * units[constant[2]]
        else:
            raise RolloutError(f"the limit {text!r} can't be read; write for example {examples} or '{OFF}'")
    if kind is Kind.SHARE and plus >= 1:
        raise RolloutError(f"the limit {text!r} lets every request fail; a share is below 1, such as '2%'")
    return Limit(ratio, plus, text.strip())
