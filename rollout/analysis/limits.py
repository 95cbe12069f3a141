"""What the canary's figures are held to, and how sure a decision has to be."""

from __future__ import annotations

import re
from dataclasses import dataclass

from rollout.errors import RolloutError

OFF = "off"
_UNITS = {"%": 0.01, "ms": 0.001, "s": 1.0, "": 1.0}
_NUMBER = r"(\d+(?:\.\d+)?)"
_STABLE = re.compile(rf"(?:{_NUMBER}\s*[*x]\s*)?stable")
_CONSTANT = re.compile(rf"{_NUMBER}\s*(%|ms|s|)")


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
        roll_back_risk: most that the probability may be, in one step, of rolling back a canary that keeps all
            limits.
        proceed_risk: most that the probability may be, in one step, of letting a canary pass that is far
            beyond one limit (see `FAR_BEYOND` in rollout.analysis.measures).
        least_requests: no decision on fewer of the canary's requests.
        enough_requests: after so many the canary passes, unless it has been found worse.
    """

    error_rate: Limit | None = Limit(1, 0.01, "stable + 1%")
    first_token: Limit | None = Limit(1.5, 0.1, "1.5 * stable + 100ms")
    inter_token: Limit | None = Limit(1.5, 0.02, "1.5 * stable + 20ms")
    queue: Limit | None = Limit(1.5, 0.5, "1.5 * stable + 500ms")
    roll_back_risk: float = 0.01
    proceed_risk: float = 0.05
    least_requests: int = 20
    enough_requests: int = 1000

    def __post_init__(self) -> None:
        for name in ("roll_back_risk", "proceed_risk"):
            if not 0 < getattr(self, name) < 1:
                raise RolloutError(f"{name} is a probability between 0 and 1, not {getattr(self, name)}")


def parse_limit(text: str) -> Limit | None:
    """A limit as people write it: `2%`, `300ms`, `stable + 1%`, `1.5 * stable + 0.1s`; None for `off`.

    Raises:
        RolloutError: it has another form.
    """
    if text.strip() == OFF:
        return None
    ratio = plus = 0.0
    for term in text.split("+"):
        if match := _STABLE.fullmatch(term.strip()):
            ratio += float(match[1] or 1)
        elif match := _CONSTANT.fullmatch(term.strip()):
            plus += float(match[1]) * _UNITS[match[2]]
        else:
            raise RolloutError(
                f"the limit {text!r} can't be read; write for example '2%', '300ms', 'stable + 1%', "
                f"'1.5 * stable + 100ms', or '{OFF}'"
            )
    return Limit(ratio, plus, text.strip())
