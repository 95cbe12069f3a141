"""How a rollout goes forward: its steps and times."""

from __future__ import annotations

import re
from dataclasses import dataclass

from rollout.errors import InvalidPlan

DEFAULT_STEPS = (5, 25, 50, 100)
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps, and how long each may take.

    Before the first step the canary is started without traffic, and after the last it is promoted.

    Attributes:
        steps: the canary's share of the traffic, in percent, ascending.
        interval_s: seconds that a step lasts at least; a bad verdict ends it at once.
        ready_timeout_s: seconds after which a canary that isn't ready is rolled back.
        verdict_timeout_s: seconds without a verdict after which the rollout pauses.

    Raises:
        InvalidPlan: the steps or times make no sense.
    """

    steps: tuple[int, ...] = DEFAULT_STEPS
    interval_s: float = 120.0
    ready_timeout_s: float = 1800.0
    verdict_timeout_s: float = 3600.0

    def __post_init__(self) -> None:
        ascending = all(low < high for low, high in zip(self.steps, self.steps[1:], strict=False))
        if not self.steps or not ascending or self.steps[0] < 1 or self.steps[-1] > 100:
            shown = ",".join(map(str, self.steps))
            raise InvalidPlan(
                f"steps {shown!r}: whole percentages from 1 to 100, ascending, such as 5,25,50,100"
            )
        if self.interval_s < 0 or self.ready_timeout_s <= 0 or self.verdict_timeout_s <= 0:
            raise InvalidPlan("times have to be positive")
        if self.verdict_timeout_s < self.interval_s:
            raise InvalidPlan("a step can't be longer than the time it may wait for a verdict")

    def after(self, percent: int) -> int | None:
        """The step that follows `percent`, None after the last."""
        return next((step for step in self.steps if step > percent), None)


def parse_steps(text: str) -> tuple[int, ...]:
    """Steps such as `5,25,50,100`.

    Raises:
        InvalidPlan: it isn't a list of whole numbers.
    """
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InvalidPlan(f"steps {text!r}: whole percentages, such as 5,25,50,100") from None


def parse_duration(text: str) -> float:
    """Seconds of a duration such as `90s`, `2m`, `1h30m` or `45` (seconds).

    Raises:
        InvalidPlan: it isn't one.
    """
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h)", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise InvalidPlan(f"duration {text!r}: a number with a unit, such as 90s, 2m or 1h30m")
    return sum(float(number) * _UNITS[unit] for number, unit in parts)
