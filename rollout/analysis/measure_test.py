"""The sequential test of one measure."""

from __future__ import annotations

from dataclasses import dataclass, field

from rollout.analysis.counters import Counters
from rollout.analysis.dispersion import Blocks, bounds, design_effect
from rollout.analysis.measures import Measure, Points
from rollout.analysis.sequential import Claim, Counts, Pair, RateLimit, log_evidence

# How surely a reference's rate lies within its bounds, as quantiles of the normal distribution: 1 in 2,000 is
# as little as a false alarm may have of the risk, 1 in 40 half of what a bad canary may have to pass.
_Z = {Claim.KEPT: 3.3, Claim.BROKEN: 1.96}


@dataclass(slots=True)
class MeasureTest:
    """Collects evidence, block by block, that a limit is not kept, and that the canary isn't far beyond it.

    Attributes:
        measure: what is tested.
        reference: earlier blocks of the stable revision, where it has none at the same time that the canary
            could be compared with. Being a sample, they say between what bounds its rate lies.
        past: bad ones and all so far.
        reference_total: all blocks of the reference together.
    """

    measure: Measure
    reference: tuple[Counters, ...] | None = None
    past: Pair = field(default_factory=Pair)
    _evidence: dict[Claim, float] = field(default_factory=lambda: dict.fromkeys(Claim, 0.0))
    _blocks: dict[Claim, Blocks] = field(default_factory=lambda: {claim: Blocks() for claim in Claim})
    _seen: tuple[Counters, Counters] = (Counters(), Counters())
    _pending: tuple[Counters, Counters] = (Counters(), Counters())
    _points: Points | None = None
    reference_total: Counters | None = None
    _bounds: dict[Claim, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.reference is not None:
            self.held_to(self.reference)

    @property
    def blocks(self) -> int:
        """How many there were."""
        return len(self._blocks[Claim.KEPT])

    @property
    def cannot_be_tested(self) -> bool:
        """Whether there is no ground for the comparison and won't be."""
        if self.reference is None:
            return False
        return self._points is None or (self.measure.line(Claim.KEPT).ratio > 0 and not self._bounds)

    def evidence(self, claim: Claim, needed: float = 0.0) -> float:
        """Evidence against a claim, as a natural logarithm; what stays below `needed` may be too high."""
        found, blocks = self._evidence[claim], self._blocks[claim]
        if found < needed or not self.measure.by_requests or not blocks:
            return found
        return found / design_effect(blocks, self._line(claim), claim)

    @property
    def counted(self) -> str:
        """What was counted, for people."""
        canary, stable = self.past.canary, self.past.stable
        if not self.measure.by_requests:
            return f"{canary.bad:.0f} in {canary.total:.0f} minutes of the canary's pods"
        text = f"Bad by that were {canary.bad:.0f} of the canary's {canary.total:.0f} requests"
        if self.reference is not None:
            return text
        return f"{text} and {stable.bad:.0f} of the stable's {stable.total:.0f}"

    def add(self, stable: Counters, canary: Counters) -> None:
        """Take in what was counted since the last call."""
        part = self.measure.part
        self._pending = self._pending[0] + part(stable), self._pending[1] + part(canary)
        if self.reference is None:
            self._points = self.measure.points(self._seen[0]) or self._points
        points = self._points
        if points is None or self.cannot_be_tested:
            self._close_block()
            return
        least = 0.0 if self.measure.by_requests else 1.0
        blocks = {claim: self._pair(self._pending, points, claim) for claim in Claim}
        block = blocks[Claim.KEPT]
        relative = self.reference is None and self.measure.line(Claim.KEPT).ratio > 0
        # A block has both revisions' requests in it, else a relative limit gets no evidence from it.
        if block.canary.total <= least or (relative and not block.stable.total):
            return
        for claim in Claim:
            line = self._line(claim)
            past = self._pair(self._seen, points, claim)
            found = blocks[claim]
            if self.reference is not None:
                past, found = Pair(canary=past.canary), Pair(canary=found.canary)
            if not found.canary.total or (relative and not found.stable.total):
                continue  # None is past its point yet.
            self._evidence[claim] += log_evidence(line, claim, past, found)
            self._blocks[claim].append(found)
            if claim is Claim.KEPT:
                self.past = self.past + found
        self._close_block()

    def held_to(self, reference: tuple[Counters, ...]) -> None:
        """Go on against other blocks of the stable revision."""
        self.reference, self.reference_total = reference, sum(reference, Counters())
        self._points = self.measure.points(self.reference_total)
        if self._points is None or not self.measure.line(Claim.KEPT).ratio:
            return
        for claim in Claim:
            counts = [self.measure.counts(block, self._points.of(claim)[0]) for block in reference]
            blocks = Blocks()
            for block in counts:
                if block.total > 0:
                    blocks.append(Pair(canary=block))
            if len(blocks):
                effect = (
                    design_effect(blocks, RateLimit(0.0, 0.0), claim) if self.measure.by_requests else 1.0
                )
                low, high = bounds(sum(counts, Counts()), effect, _Z[claim])
                self._bounds[claim] = high if claim is Claim.KEPT else low

    def _line(self, claim: Claim) -> RateLimit:
        line = self.measure.line(claim)
        return RateLimit(0.0, line.at(self._bounds[claim])) if claim in self._bounds else line

    def _pair(self, counters: tuple[Counters, Counters], points: Points, claim: Claim) -> Pair:
        return Pair(*map(self.measure.counts, counters, points.of(claim)))

    def _close_block(self) -> None:
        self._seen = self._seen[0] + self._pending[0], self._seen[1] + self._pending[1]
        self._pending = Counters(), Counters()
