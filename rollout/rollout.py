"""A rollout of one InferenceService: the commands, for Python and for the command line."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace

import yaml

from rollout import rights
from rollout.cluster import Cluster
from rollout.driver import Driver
from rollout.errors import NoRollout, NotPossibleNow, RolloutInProgress, UnsuitableService
from rollout.judging import PODS, Judging
from rollout.mechanism import mode_of
from rollout.plan import Plan
from rollout.record import Entry, Mode, Phase, Record, merged, now, read_history
from rollout.result import Outcome, Preview, Result, Snapshot
from rollout.rights import Right
from rollout.service import Service, Spec, merge_patch
from rollout.track import MECHANISMS, State, Track
from rollout.verdict import Judge


class Rollout:
    """The rollout of one service.

    All of its state lies on the InferenceService, so any number of these may look at one rollout, and any may
    go on with it.

    Args:
        name: the InferenceService.
        cluster: where it is; see `Cluster.connect`.
        judges: who judges the canary; None takes those of the record's options.
        on_progress: is called with every look at the rollout while a command waits.
        poll_s: seconds between two looks; None chooses by the plan's interval.
        hold_s: seconds that traffic has to be back before a rollback goes on.
    """

    def __init__(
        self,
        name: str,
        cluster: Cluster,
        *,
        judges: Sequence[Judge] | None = None,
        on_progress: Callable[[Snapshot], None] | None = None,
        poll_s: float | None = None,
        hold_s: float = 5.0,
    ) -> None:
        self._name = name
        self._cluster = cluster
        self._own_judges = judges is not None
        self._track = Track(cluster, name)
        self._driver = Driver(self._track, judges, on_progress or (lambda _: None), poll_s, hold_s)

    def start(self, model: str, plan: Plan | None = None, judging: Judging | None = None) -> Result:
        """Roll out a model and wait for the end.

        Returns:
            Promoted, rolled back with the reasons, or paused where there was no verdict in time.

        Raises:
            RolloutInProgress: the service has a rollout that isn't finished.
            MissingRights: the user lacks rights; nothing was changed.
            UnsuitableService: no rollout can start from the service as it is.
            ForeignChange: somebody else changed the service meanwhile.
        """
        plan, judging = plan or Plan(), (judging or Judging()).signed()
        state = self._track.look()
        mode = mode_of(state.service)
        self._cluster.demand(self._rights(mode, judging), self._name)
        self._driver.prepare(judging, plan)
        record = self._first_record(state, mode, model, plan, judging)
        self._check_route(mode)
        notices = () if self._own_judges else judging.notices(plan)

        def begin(found: State) -> State:
            if found.record is not None and _same(found.record, record):
                return found
            if found.record is not None and found.record.phase.active:
                raise RolloutInProgress(_in_progress(found.service, found.record))
            found = self._track.move(State(found.service, found.record), record, "start", *notices)
            text = f"canary of {model} by {record.started_by}"
            self._cluster.event(found.service, "RolloutStarted", ": ".join((text, *notices)))
            return found

        return self._driver.drive(begin)

    def preview(self, model: str, plan: Plan | None = None, judging: Judging | None = None) -> Preview:
        """What `start` would do. Nothing is changed, and the API server has checked the patch.

        Raises:
            RolloutInProgress, UnsuitableService: as `start`.
        """
        judging = judging or Judging()
        state = self._track.look()
        mode = mode_of(state.service)
        record = self._first_record(state, mode, model, plan or Plan(), judging)
        self._check_route(mode)
        spec = merge_patch(state.service.spec, MECHANISMS[mode].spec(state.service, record))
        self._cluster.patch_spec(state.service, spec, dry_run=True)
        patch = {"metadata": {"resourceVersion": state.service.resource_version}, "spec": spec}
        missing = self._cluster.missing(self._rights(mode, judging), self._name)
        difference = _diff(record.stable, record.canary)
        return Preview(patch, difference, tuple(f"{right}: {right.why}" for right in missing))

    def resume(self, *, golden: str | None = None, reports: str | None = None) -> Result:
        """Go on with a rollout that was paused, or whose command ended, and wait for the end.

        Args:
            golden, reports: where the golden set lies and the reports go on this machine; None takes the
                paths that the rollout was started with.

        Raises:
            NoRollout: there is none to go on with.
            ForeignChange: somebody else changed the service meanwhile.
        """
        state = self._active()
        judging = Judging(**state.known.judging).here(golden, reports)
        self._cluster.demand(self._rights(state.known.mode, judging), self._name)
        self._driver.prepare(judging, state.known.plan)

        def begin(found: State) -> State:
            if not found.known.paused:
                return found
            found = self._track.complete(found)
            return self._track.note(found, replace(found.known, paused=""), "resume")

        return self._driver.drive(begin)

    def status(self) -> Snapshot:
        """The rollout now."""
        return self._driver.snapshot(self._track.look())

    def step(self) -> Snapshot:
        """Give the canary the next step's traffic now, without a verdict; after the last step, promote it.

        Raises:
            NoRollout, NotPossibleNow, ForeignChange: it can't be done; the message says why.
        """
        state = self._ready_canary()
        following = state.known.plan.after(state.known.percent)
        if following is None:
            state = self._driver.begin_promotion(state, "by hand")
        elif refusal := self._driver.refusal(state, following):
            raise NotPossibleNow(refusal)
        else:
            state = self._driver.step(state, following, "by hand")
        return self._driver.snapshot(state)

    def pause(self, reason: str = "by hand") -> Snapshot:
        """Stop going on by itself; traffic stays as it is until somebody resumes, steps or ends it."""
        state = self._active()
        if state.known.phase is not Phase.PROGRESSING:
            raise NotPossibleNow(f"the rollout is {state.known.phase}, which isn't paused halfway")
        if not state.known.paused:
            state = self._driver.pause(state, reason)
        return self._driver.snapshot(state)

    def promote(self) -> Result:
        """Make the canary the stable version now, without further steps or verdicts, and wait until it is.

        Raises:
            NoRollout, NotPossibleNow, ForeignChange: it can't be done; the message says why.
        """
        self._active()

        def begin(found: State) -> State:
            if found.known.phase in (Phase.PROMOTING, Phase.PROMOTED):
                return found
            return self._driver.begin_promotion(self._ready_canary(), "by hand")

        return self._driver.drive(begin)

    def rollback(self, reason: str = "by hand", *, leave: bool = False) -> Result:
        """Take the traffic away from the canary, remove it, and wait until the service is as before.

        Called again it goes on, and does nothing once the rollout is rolled back.

        Args:
            leave: end the rollout and leave the service exactly as it is.

        Raises:
            NoRollout: there is none, or it was promoted.
            NotPossibleNow: the canary has just taken the stable version's place.
        """
        state = self._track.look()
        record = state.known
        if record.phase is Phase.ROLLED_BACK:
            if wrong := state.mechanism.contradiction(state.service, record):
                raise NoRollout(
                    f"the rollout of {record.model} was rolled back, and somebody has changed {self._name} "
                    f"since: {wrong}. Start a rollout of the model that it is to have"
                )
            return Result(Outcome.ROLLED_BACK, record.model, 0, ("it was rolled back before",))
        if not record.phase.active:
            raise NoRollout(
                f"the rollout of {record.model} is over ({record.phase}); to go back to another model, "
                f"start a rollout of it. Before: {_model(record.stable)}"
            )
        if leave:
            left = replace(record, phase=Phase.LEFT, paused="")
            self._track.note(state, left, "leave", reason)
            return Result(Outcome.LEFT, record.model, record.percent, (reason,))

        def begin(found: State) -> State:
            return self._driver.begin_rollback(found, reason) if found.known.phase.active else found

        return self._driver.drive(begin)

    def history(self) -> tuple[Entry, ...]:
        """What happened to the service's rollouts and who did it, oldest first.

        From the service's annotations, and from its Events where the annotations have lost something.
        """
        service = self._track.look().service
        return merged(read_history(service.annotations), self._cluster.told(service))

    def diff(self, model: str | None = None) -> str:
        """How the canary's predictor differs from the stable one; with a model, how it would.

        Raises:
            NoRollout: no model is given and there is no rollout.
        """
        state = self._track.look()
        if model is None:
            return _diff(state.known.stable, state.known.canary)
        mechanism = MECHANISMS[mode_of(state.service)]
        canary = mechanism.canary(state.service, model, _number(state))
        return _diff(state.service.predictor, canary)

    def _first_record(self, state: State, mode: Mode, model: str, plan: Plan, judging: Judging) -> Record:
        if state.record is not None and state.record.phase.active:
            raise RolloutInProgress(_in_progress(state.service, state.record))
        if "://" not in model:
            raise UnsuitableService(f"{model!r} is no model reference for a cluster, such as hf://OWNER/REPO")
        service, mechanism = state.service, MECHANISMS[mode]
        mechanism.check(service)
        canary = mechanism.canary(service, model, _number(state))
        if model == _model(service.predictor):
            raise UnsuitableService(f"{service.name} serves {model} already")
        stable = mechanism.stable_revision(service)
        who = self._cluster.user()
        return Record(
            number=_number(state),
            mode=mode,
            model=model,
            phase=Phase.PROGRESSING,
            percent=0,
            paused="",
            plan=plan,
            stable=service.predictor,
            canary=canary,
            stable_revision=stable,
            canary_revision="",
            before="",
            after="",
            started_by=who,
            started_at=now(),
            judging=asdict(judging),
        )

    def _rights(self, mode: Mode, judging: Judging) -> tuple[Right, ...]:
        """What is needed; judges that were handed in see to their own."""
        if self._own_judges:
            return rights.needed(mode)
        return rights.needed(mode, metrics=judging.metrics == PODS, golden=judging.golden is not None)

    def _check_route(self, mode: Mode) -> None:
        if mode is Mode.STANDARD and not self._cluster.route_exists(f"{self._name}-predictor"):
            raise UnsuitableService(
                f"there is no HTTPRoute {self._name}-predictor, so nothing could split the traffic: "
                "Standard canaries need KServe with the Gateway API (enableGatewayApi), not with Ingress"
            )

    def _active(self) -> State:
        state = self._track.look()
        if not state.known.phase.active:
            raise NoRollout(f"the last rollout of {self._name} is over: {state.known.phase}")
        return state

    def _ready_canary(self) -> State:
        state = self._active()
        if state.known.phase is not Phase.PROGRESSING:
            raise NotPossibleNow(f"the rollout is {state.known.phase}; go on with: rollout start --resume")
        state = self._track.complete(state)
        if not state.mechanism.observe(state.service, state.known).ready:
            raise NotPossibleNow("the canary is not ready, so it can't take traffic; see rollout status")
        return state


def _same(one: Record, other: Record) -> bool:
    """Whether two records are of one rollout."""
    return (one.number, one.started_by, one.started_at, one.model) == (
        other.number,
        other.started_by,
        other.started_at,
        other.model,
    )


def _number(state: State) -> int:
    return state.record.number + 1 if state.record else 1


def _model(predictor: Spec) -> str:
    return str((predictor.get("model") or {}).get("storageUri", "unknown"))


def _in_progress(service: Service, record: Record) -> str:
    name = service.name
    return (
        f"{name} has a rollout already: {record.model}, {record.phase} at {record.percent}%, started by "
        f"{record.started_by} at {record.started_at}. Look with `rollout status {name}`, go on with "
        f"`rollout start {name} --resume`, or end it with `rollout rollback {name}`"
    )


def _diff(stable: Spec, canary: Spec) -> str:
    old, new = (yaml.safe_dump(spec, sort_keys=True).splitlines() for spec in (stable, canary))
    return "\n".join(difflib.unified_diff(old, new, "stable", "canary", lineterm=""))
