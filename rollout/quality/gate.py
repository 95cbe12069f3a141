"""Both revisions' answers as figures, and whether these keep the limits."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from rollout.quality.answers import Answer
from rollout.quality.scoring import Compared, is_refusal, is_right, is_valid_json
from rollout.verdict import Decision, Figure, Verdict

# From so many prompts on, one may turn without consequence: greedy answers can hang on a rounding.
_ONE_IN = 10


@dataclass(frozen=True, slots=True)
class QualityLimits:
    """How much worse the canary's answers may be.

    Attributes:
        lost: most that its share of right answers, or of valid JSON, may be below the stable revision's.
        refusals: most that its share of refusals may be above.
        logprob_drop: most that the stable model's mean log-probability may fall from its own answers to the
            canary's, in nats per token; None for no limit.
        agreement: least share of answers that are the same after normalisation; 0 for no limit.
    """

    lost: float = 0.05
    refusals: float = 0.05
    logprob_drop: float | None = 0.5
    agreement: float = 0.0


@dataclass(frozen=True, slots=True)
class Tally:
    """How many of the prompts that something can be said about have it, on each revision."""

    name: str
    stable: int
    canary: int
    total: int

    def figure(self) -> Figure:
        """Both shares in percent."""
        total = max(1, self.total)
        return Figure(
            self.name, "%", 100 * self.stable / total, 100 * self.canary / total, samples=self.total
        )


@dataclass(frozen=True, slots=True)
class Quality:
    """All comparisons of one run of the golden set."""

    compared: Sequence[Compared]

    @property
    def answered(self) -> Tally:
        return self._tally("answered", self.compared, lambda _, answer: answer.error is None)

    @property
    def right(self) -> Tally:
        checked = [one for one in self.compared if one.prompt.is_checked]
        return self._tally("right answers", checked, lambda one, answer: is_right(one.prompt, answer))

    @property
    def valid_json(self) -> Tally:
        asked = [one for one in self.compared if one.prompt.is_json]
        return self._tally("valid JSON", asked, lambda one, answer: is_valid_json(one.prompt, answer.text))

    @property
    def refusals(self) -> Tally:
        return self._tally("refusals", self.compared, lambda _, answer: is_refusal(answer.text))

    @property
    def exact(self) -> float:
        """Share of answers that are the same to the letter."""
        return sum(one.exact for one in self.compared) / len(self.compared)

    @property
    def agreement(self) -> float:
        """Share of answers that are the same after normalisation."""
        return sum(one.same for one in self.compared) / len(self.compared)

    @property
    def logprob_drop(self) -> float | None:
        """Mean over the prompts where it is known, in nats per token."""
        drops = [one.logprob_drop for one in self.compared if one.logprob_drop is not None]
        return statistics.fmean(drops) if drops else None

    def logprob(self, *, canary: bool) -> float | None:
        """The stable model's mean log-probability of a revision's answers, in nats per token."""
        known = [
            one.stable.mean_logprob - (one.logprob_drop if canary else 0.0)
            for one in self.compared
            if one.stable.mean_logprob is not None and one.logprob_drop is not None
        ]
        return statistics.fmean(known) if known else None

    def median_seconds(self, *, canary: bool) -> float | None:
        """Median time to a whole answer."""
        answers = [one.canary if canary else one.stable for one in self.compared]
        seconds = [answer.seconds for answer in answers if answer.error is None]
        return statistics.median(seconds) if seconds else None

    @property
    def most_changed(self) -> list[Compared]:
        """The prompts whose answers differ, most changed first."""
        return sorted((one for one in self.compared if not one.same), key=lambda c: c.change, reverse=True)

    def figures(self, limits: QualityLimits) -> tuple[Figure, ...]:
        """What was measured, for the live display and the report."""
        tallies = (self.answered, self.right, self.valid_json, self.refusals)
        count = len(self.compared)
        return (
            *(tally.figure() for tally in tallies if tally.total),
            Figure("same answer", "%", None, 100 * self.agreement, 100 * limits.agreement or None, count),
            Figure("same to the letter", "%", None, 100 * self.exact, None, count),
            Figure(
                "log-probability under the stable model",
                "nats/token",
                own := self.logprob(canary=False),
                self.logprob(canary=True),
                None if own is None or limits.logprob_drop is None else own - limits.logprob_drop,
                count,
            ),
            Figure(
                "median time to an answer",
                "s",
                self.median_seconds(canary=False),
                self.median_seconds(canary=True),
                None,
                count,
            ),
        )

    def verdict(self, limits: QualityLimits) -> Verdict:
        """Whether the canary may get traffic."""
        reasons = [*self._reasons(limits)]
        decision = Decision.ROLL_BACK if reasons else Decision.PROCEED
        return Verdict(decision, tuple(reasons), self.figures(limits))

    def _reasons(self, limits: QualityLimits) -> Iterable[str]:
        for tally, share, sign in (
            (self.answered, 0.0, 1),
            (self.right, limits.lost, 1),
            (self.valid_json, limits.lost, 1),
            (self.refusals, limits.refusals, -1),
        ):
            if sign * (tally.stable - tally.canary) > tolerated(share, tally.total):
                yield (
                    f"{tally.name}: {tally.canary} of {tally.total} on the golden set, and {tally.stable} on "
                    f"the stable revision; a difference of {tolerated(share, tally.total)} is tolerated"
                    f"{self._examples()}"
                )
        drop = self.logprob_drop
        if drop is not None and limits.logprob_drop is not None and drop > limits.logprob_drop:
            yield (
                f"the stable model finds the canary's answers to the golden set {drop:.2f} nats per token "
                f"less likely than its own; the limit is {limits.logprob_drop:g}{self._examples()}"
            )
        if self.agreement < limits.agreement:
            yield (
                f"{100 * self.agreement:.0f}% of the answers to the golden set are the same; the limit is "
                f"{100 * limits.agreement:.0f}%{self._examples()}"
            )

    def _examples(self) -> str:
        names = [one.prompt.id for one in self.most_changed[:3]]
        return f" (changed most: {', '.join(names)})" if names else ""

    def _tally(
        self, name: str, compared: Sequence[Compared], has: Callable[[Compared, Answer], bool]
    ) -> Tally:
        return Tally(
            name,
            sum(has(one, one.stable) for one in compared),
            sum(has(one, one.canary) for one in compared),
            len(compared),
        )


def tolerated(share: float, total: int) -> int:
    """How many of `total` prompts may turn for the worse."""
    return max(1 if total >= _ONE_IN else 0, int(share * total))
