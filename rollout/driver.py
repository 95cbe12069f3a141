"""Takes a rollout to its end: waits, asks the judges, moves on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from rollout.errors import ClusterAway, ForeignChange, NotPossibleNow, RolloutError, Superseded
from rollout.judging import Judging
from rollout.mechanism import Observed
from rollout.plan import Plan
from rollout.record import Mode, Phase, Record, read_history
from rollout.result import Outcome, Result, Snapshot
from rollout.track import State, Track, foreign_change
from rollout.verdict import Decision, Judge, Verdict, combine

_OUTCOMES = {
    Phase.PROMOTED: Outcome.PROMOTED,
    Phase.ROLLED_BACK: Outcome.ROLLED_BACK,
    Phase.LEFT: Outcome.LEFT,
}


# What part of the time for getting ready a canary that was ready may be unready afterwards, in one step.
_UNREADY_PART = 0.1


@dataclass(slots=True)
class _Stage:
    """The driver's clocks within one phase and percentage; a resumed rollout starts them anew.

    A canary that comes and goes has its ready and its unready time added up: nothing starts a clock again.

    Attributes:
        settled_s: how long KServe has had everything done that the phase asks for; None before it had.
        unready_s: how long it hadn't, after it once had.
    """

    key: tuple[Phase, int]
    began: float = field(default_factory=time.monotonic)
    settled_s: float | None = None
    unready_s: float = 0.0
    settled_since: float | None = None
    verdict: Verdict | None = None
    _looked: float = field(default_factory=time.monotonic)

    def look(self, is_settled: bool) -> None:
        """Take in whether all is done now; the time since the last look counts as what was seen then."""
        now = time.monotonic()
        passed, self._looked = now - self._looked, now
        if self.settled_s is None:
            self.settled_s = 0.0 if is_settled else None
        elif self.settled_since is not None:
            self.settled_s += passed
        else:
            self.unready_s += passed
        self.settled_since = (self.settled_since or now) if is_settled else None

    def elapsed(self) -> float | None:
        """Seconds of the step so far; None while KServe has something to do."""
        return None if self.settled_since is None else self.settled_s

    def held(self) -> float | None:
        """Seconds for which KServe has had everything done without a break; None while it hasn't."""
        return None if self.settled_since is None else time.monotonic() - self.settled_since


class Driver:
    """Drives the rollout of one service; see `rollout.rollout.Rollout` for the arguments."""

    def __init__(
        self,
        track: Track,
        judges: Sequence[Judge] | None,
        on_progress: Callable[[Snapshot], None],
        poll_s: float | None,
        hold_s: float,
    ) -> None:
        self._track = track
        self._judges = judges
        self._on_progress = on_progress
        self._poll_s = poll_s
        self._hold_s = hold_s
        self._stage = _Stage((Phase.PROGRESSING, -1))
        self._verdict: Verdict | None = None
        self._away_since: float | None = None
        self._seen: State | None = None
        self._patience_s: float | None = None

    def prepare(self, judging: Judging, plan: Plan) -> None:
        """Make the judges, so that their mistakes show before anything is changed."""
        self._patience_s = plan.ready_timeout_s
        if self._judges is None:
            self._judges = judging.judges(self._track.cluster.api, plan)

    def drive(self, begin: Callable[[State], State] | None = None) -> Result:
        """Go on until the rollout ends or pauses.

        An API server that doesn't answer is asked again, for as long as a canary may take to get ready.

        Args:
            begin: the first move, from whatever state is found; made again where another command was faster.

        Raises:
            ForeignChange: somebody else changed the service; the rollout is paused.
            NotPossibleNow: KServe doesn't carry out what was asked of it.
            ClusterAway: the API server has not answered for so long; the canary isn't watched any more.
        """
        while True:
            try:
                self._seen = state = self._track.look()
                self._away_since = None
                if begin is not None:
                    state = begin(state)
                    begin = None
                record = state.known
                if not record.phase.active:
                    return self._ended(self._track.look())
                state = self._track.complete(state)
                if record.paused:
                    return self._result(state, Outcome.PAUSED)
                moved = self._advance(state)
            except Superseded:
                continue
            except ClusterAway as error:
                self._wait_for_cluster(error)
                continue
            except ForeignChange as error:
                self._stop(error)
                raise
            if not moved:
                time.sleep(self._pause_s(record))

    def _wait_for_cluster(self, error: ClusterAway) -> None:
        """Say that the cluster is away, and wait for it, but not for ever."""
        now = time.monotonic()
        if self._away_since is None:
            self._away_since = now
        if self._seen is None:
            raise error
        if self._patience_s is None:
            self._patience_s = self._seen.known.plan.ready_timeout_s
        away, most = now - self._away_since, self._patience_s
        if away > most:
            raise ClusterAway(
                f"{error.message}. It has been away for {away:.0f} s, so nobody watches the canary. "
                f"Go on with `rollout start {self._seen.service.name} --resume`"
            ) from None
        trying = f"{error.message}; trying again for {most - away:.0f} s"
        self._on_progress(replace(self.snapshot(self._seen), unreachable=trying))
        time.sleep(self._pause_s(self._seen.record))

    def _ended(self, state: State) -> Result:
        """The result of a rollout whose record says that it is over, if the service says so too.

        Raises:
            NotPossibleNow: it doesn't.
        """
        record = state.known
        if wrong := state.mechanism.contradiction(state.service, record):
            raise NotPossibleNow(f"the rollout is recorded as {record.phase}, but {wrong}: look at it")
        return self._result(state, _OUTCOMES[record.phase])

    def snapshot(self, state: State) -> Snapshot:
        """A state with what this driver knows of it."""
        service, record = state.service, state.record
        if record is None:
            return Snapshot(service.namespace, service.name, None)
        known = self._stage.key == (record.phase, record.percent)
        return Snapshot(
            service.namespace,
            service.name,
            record,
            state.mechanism.observe(service, record) if record.phase.active else None,
            foreign_change(state) if record.phase.active and state.foreign else "",
            self._stage.verdict if known else None,
            self._stage.elapsed() if known else None,
            next(iter(reversed(read_history(service.annotations))), None),
        )

    def step(self, state: State, percent: int, *reasons: str) -> State:
        """Give the canary a larger share."""
        record = replace(state.known, percent=percent, replicas=self._replicas(state))
        state = self._track.move(state, record, "step", *reasons)
        self._event(state, "RolloutStep", f"{percent}% of the traffic to the canary", *reasons)
        return state

    def refusal(self, state: State, percent: int) -> str:
        """Why the canary can't have so much traffic; empty if it can."""
        return state.mechanism.refusal(replace(state.known, percent=percent, replicas=self._replicas(state)))

    def _replicas(self, state: State) -> int:
        """Replicas that serve now, of both revisions; 0 where the mechanism sizes the canary by itself."""
        record = state.known
        deployments = state.mechanism.deployments(state.service, record)
        used = deployments if record.percent else deployments[:1]
        return sum(self._track.cluster.replicas(name) or 0 for name in used)

    def pause(self, state: State, reason: str) -> State:
        """Stop going on by itself."""
        state = self._track.note(state, replace(state.known, paused=reason), "pause", reason)
        self._event(state, "RolloutPaused", f"paused at {state.known.percent}%", reason, warning=True)
        return state

    def begin_promotion(self, state: State, *reasons: str) -> State:
        """Make the canary the stable version."""
        record = replace(state.known, phase=Phase.PROMOTING, percent=100, paused="")
        return self._track.move(state, record, "promote", *reasons)

    def begin_rollback(self, state: State, *reasons: str) -> State:
        """Take the traffic away from the canary, or go on with doing so.

        Raises:
            NotPossibleNow: the stable version's pods are being removed already.
        """
        record, service = state.known, state.service
        if record.phase.going_back:
            return (
                self._track.move(state, record, "roll back", *reasons, over_foreign=True)
                if state.foreign
                else state
            )
        back = replace(record, phase=Phase.WITHDRAWING, percent=0, paused="")
        gone = replace(record, phase=Phase.ROLLED_BACK, percent=0, paused="")
        if state.mechanism.took_over(service, record):
            raise NotPossibleNow(
                "the canary has taken the stable version's place, and the old pods are being removed. Finish "
                f"with `rollout start {service.name} --resume`, or keep the service as it is with "
                f"`rollout rollback {service.name} --leave`; then start a rollout of the model before"
            )
        if state.mechanism.spec(service, gone) == service.spec and service.predictor == record.stable:
            # The canary was announced and never made; KServe would take a weight of 0 for an older rollback.
            return self._end(state, gone, *reasons)
        return self._track.move(state, back, "roll back", *reasons, over_foreign=True)

    def _advance(self, state: State) -> bool:
        """One look at the rollout; whether it was moved on."""
        record = state.known
        if self._stage.key != (record.phase, record.percent):
            self._stage = _Stage((record.phase, record.percent))
        observed = state.mechanism.observe(state.service, record)
        self._stage.look(observed.settled)
        if observed.canary_revision and not record.canary_revision:
            self._track.note(state, replace(record, canary_revision=observed.canary_revision))
            return True
        act = self._progress if record.phase is Phase.PROGRESSING else self._finish
        moved = act(state, observed)
        self._on_progress(self.snapshot(state))
        return moved

    def _progress(self, state: State, observed: Observed) -> bool:
        record, elapsed = state.known, self._stage.elapsed()
        if observed.failure:
            self.begin_rollback(state, f"the canary can't start: {observed.failure}")
        elif reason := self._unready(record):
            self.begin_rollback(state, reason)
        elif elapsed is not None:
            return self._judge(state, elapsed)
        else:
            return False
        return True

    def _unready(self, record: Record) -> str:
        """Why the canary has been unready for too long; empty if it hasn't."""
        stage, most = self._stage, record.plan.ready_timeout_s
        if stage.settled_s is None and time.monotonic() - stage.began > most:
            return f"the canary was not ready with {record.percent}% within {most:g} s"
        if stage.unready_s > _UNREADY_PART * most:
            return (
                f"the canary was ready with {record.percent}%, and then not for {stage.unready_s:.1f} s in "
                f"all; it may for a tenth of the time for getting ready, {_UNREADY_PART * most:g} s"
            )
        return ""

    def _judge(self, state: State, elapsed: float) -> bool:
        record = state.known
        stable, canary = state.mechanism.revisions(state.service, record)
        try:
            verdict = combine([judge.judge(stable, canary, elapsed) for judge in self._judges or ()])
        except RolloutError as error:
            self.pause(state, error.message)
            return True
        self._stage.verdict = self._verdict = verdict
        if verdict.decision is Decision.ROLL_BACK:
            self.begin_rollback(state, *verdict.reasons, *(f"report: {report}" for report in verdict.reports))
        elif verdict.decision is Decision.PROCEED and (
            record.percent == 0 or elapsed >= record.plan.interval_s
        ):
            following = record.plan.after(record.percent)
            if following is None:
                self.begin_promotion(state, *verdict.reasons)
            elif refusal := self.refusal(state, following):
                self.pause(state, refusal)
            else:
                self.step(state, following, *verdict.reasons)
        elif verdict.decision is Decision.WAIT and elapsed > record.plan.verdict_timeout_s:
            self.pause(state, f"no verdict in {elapsed:.0f} s: {'; '.join(verdict.reasons)}")
        else:
            return False
        return True

    def _finish(self, state: State, observed: Observed) -> bool:
        """Take a promotion or a rollback further once KServe has carried out the present phase."""
        record, held = state.known, self._stage.held()
        # At 100% KServe may still be about to take the canary for the stable revision, and a canary that was
        # never seen may still be about to come.
        unseen = record.phase is Phase.RESTORING and not record.canary_revision
        waits = record.mode is Mode.KNATIVE and (record.phase is Phase.WITHDRAWING or unseen)
        needed = self._hold_s if waits else 0.0
        if held is None or held < needed:
            if time.monotonic() - self._stage.began > record.plan.ready_timeout_s + needed:
                raise NotPossibleNow(
                    f"KServe has not finished {record.phase} within {record.plan.ready_timeout_s:g} s"
                    f"{': ' + observed.failure if observed.failure else ''}; the spec is set. "
                    f"Look at the service, then wait on with `rollout start {state.service.name} --resume`"
                )
            return False
        if record.phase is Phase.PROMOTING:
            self._end(state, replace(record, phase=Phase.PROMOTED))
            return True
        canary = observed.canary_revision or record.canary_revision
        following = replace(record, phase=state.mechanism.back(record.phase), canary_revision=canary)
        if following.phase.active:
            action = "restore" if following.phase is Phase.RESTORING else "finish"
            self._track.move(state, following, action)
        else:
            self._end(state, following)
        return True

    def _end(self, state: State, record: Record, *reasons: str) -> State:
        why = reasons or _reasons(state, record.number)
        state = self._track.move(state, record, str(record.phase), *reasons, over_foreign=True)
        promoted = record.phase is Phase.PROMOTED
        name = "RolloutPromoted" if promoted else "RolloutRolledBack"
        self._event(state, name, f"{record.model} {record.phase}", *why, warning=not promoted)
        return state

    def _stop(self, error: ForeignChange) -> None:
        """Leave a note about a foreign change for whoever looks next; the change itself is left alone."""
        try:
            state = self._track.look()
        except ClusterAway:
            return
        if state.record and state.record.phase.active and not state.record.paused:
            try:
                state = self._track.note(state, replace(state.record, paused=error.message), "foreign change")
            except (Superseded, ClusterAway):
                return
            self._event(state, "RolloutStopped", error.message, warning=True)

    def _event(self, state: State, name: str, text: str, *reasons: str, warning: bool = False) -> None:
        message = ": ".join(filter(None, (text, "; ".join(reasons))))
        self._track.cluster.event(state.service, name, message, warning=warning)

    def _result(self, state: State, outcome: Outcome) -> Result:
        record = state.known
        reasons = (record.paused,) if outcome is Outcome.PAUSED else _reasons(state, record.number)
        shown = () if outcome is Outcome.PROMOTED else reasons
        return Result(outcome, record.model, record.percent, shown, self._verdict)

    def _pause_s(self, record: Record | None) -> float:
        if self._poll_s is not None:
            return self._poll_s
        return min(5.0, max(0.2, record.plan.interval_s / 10)) if record else 1.0


def _reasons(state: State, number: int) -> tuple[str, ...]:
    """Why a rollout was rolled back, from the history."""
    entries = [e for e in read_history(state.service.annotations) if e.number == number and e.reasons]
    return entries[-1].reasons if entries else ()
