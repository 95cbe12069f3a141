"""The machine of the driver's model check: commands over a fake API server, and what happens meanwhile.

After every command: no end is claimed that isn't so, a command ends with a result or with a word, an
interrupt ends it, and what the record announces is what the spec is, or was. In the end, with everything
back, one version serves.
"""

from __future__ import annotations

import os
import signal
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
from fake_api import NAME, NAMESPACE, FakeApi, Fault, serving
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from rollout import Cluster, Outcome, Plan, Rollout
from rollout.errors import ClusterAway, NotPossibleNow, RolloutError
from rollout.record import Phase, digest, read_history, read_record
from rollout.result import Result
from rollout.verdict import Decision, Revision, Verdict

OLD, NEW, THIRD = "hf://owner/old", "hf://owner/new", "hf://owner/third"
PLAN = Plan((25, 100), interval_s=0.0, ready_timeout_s=20.0, verdict_timeout_s=20.0)
COMMANDS: dict[str, Callable[[Rollout], Any]] = {
    "start": lambda rollout: rollout.start(NEW, PLAN),
    "resume": lambda rollout: rollout.resume(),
    "promote": lambda rollout: rollout.promote(),
    "rollback": lambda rollout: rollout.rollback(),
    "step": lambda rollout: rollout.step(),
    "pause": lambda rollout: rollout.pause(),
}
WAITING = ("start", "resume", "promote", "rollback")
EDITS = {
    "edit": {"predictor": {"timeout": 77}},
    "set another model": {"predictor": {"model": {"storageUri": THIRD}}},
    "set the new model": {"predictor": {"model": {"storageUri": NEW}}},
}
# A controller that is still away comes back at this request of the next command.
BACK_AT = 45


@dataclass(frozen=True)
class Meddling:
    """What happens during a command, and when.

    Attributes:
        what: one thing or several at the same moment: faults, commands, edits, `interrupt`, `down`, `up`.
        place: `request`, `dry run` or `write`; `ended` for requests once the record tells of an end.
        number: which of them, from 1.
        lasts: for how many requests a fault or the controller's absence does.
    """

    what: tuple[Any, ...]
    place: str
    number: int
    lasts: int = 1


_PLACES = st.one_of(
    st.tuples(st.just("request"), st.integers(1, 70)),
    st.tuples(st.sampled_from(["dry run", "write"]), st.integers(1, 8)),
    st.tuples(st.just("ended"), st.integers(1, 3)),
)
_OTHERS = [*sorted(COMMANDS), *EDITS]
_KINDS = st.one_of(
    st.tuples(st.tuples(st.sampled_from(Fault)), st.just(1)),
    st.tuples(st.sampled_from([(Fault.LOST_REQUEST,), (Fault.ERROR,)]), st.integers(5, 15)),
    st.tuples(st.just(("down",)), st.integers(1, 60)),
    st.tuples(st.sampled_from([(other,) for other in (*_OTHERS, "interrupt")]), st.just(1)),
    st.tuples(st.sampled_from([(other, "interrupt") for other in _OTHERS]), st.just(1)),
    st.tuples(st.sampled_from([("down", "interrupt")]), st.integers(1, 60)),
)
MEDDLINGS = st.lists(
    st.builds(lambda kind, place: Meddling(kind[0], *place, kind[1]), _KINDS, _PLACES), max_size=3
)


class Says:
    """A judge that rolls back at a percentage, or never; one that is broken pauses the rollout."""

    def __init__(self, bad_at: int | None, broken_at: int | None = None) -> None:
        self.bad_at, self.broken_at = bad_at, broken_at

    def judge(self, stable: Revision, canary: Revision, elapsed_s: float) -> Verdict:
        if canary.traffic_percent == self.broken_at:
            raise RolloutError("set up wrongly")
        bad = canary.traffic_percent == self.bad_at
        return Verdict(Decision.ROLL_BACK if bad else Decision.PROCEED, ("bad",) if bad else ())


class RolloutMachine(RuleBasedStateMachine):
    """Commands one after another, each with what happens at some of its requests."""

    @initialize(
        mode=st.sampled_from(["Standard", "Knative"]),
        bad_at=st.sampled_from([None, None, 25, 100]),
        paused_at=st.sampled_from([None, 0, 25, 100]),
    )
    def begin(self, mode: str, bad_at: int | None = None, paused_at: int | None = None) -> None:
        self.stack = ExitStack()
        self.api = self.stack.enter_context(serving(FakeApi(mode)))
        self.edited = self.other_model = self.running = False
        self.planned: defaultdict[tuple[str, int], list[Meddling]] = defaultdict(list)
        self.counted: defaultdict[str, int] = defaultdict(int)
        self.happened: set[str] = set()
        self.most_writes: int | None = None
        self.judge = Says(None, paused_at)
        if paused_at is not None:
            assert self._rollout(calm=True).start(NEW, PLAN).outcome is Outcome.PAUSED
        self.judge = Says(bad_at)
        self.api.before = self._before

    def teardown(self) -> None:
        if not hasattr(self, "stack"):
            return
        try:
            self.planned.clear()
            self.api.down = False
            self.api.before = lambda _: None
            self._end_all()
        finally:
            self.stack.close()

    @precondition(lambda self: not self._active())
    @rule(meddlings=MEDDLINGS)
    def start(self, meddlings: list[Meddling]) -> None:
        self.command("start", *meddlings)

    @precondition(lambda self: self._active())
    @rule(name=st.sampled_from(["rollback", "resume", "promote", "step", "pause"]), meddlings=MEDDLINGS)
    def go_on(self, name: str, meddlings: list[Meddling]) -> None:
        self.command(name, *meddlings)

    @precondition(lambda self: self._record() is not None and not self._active())
    @rule(edit=st.sampled_from([None, *EDITS]))
    def roll_back_again(self, edit: str | None) -> None:
        self.command("rollback", *([Meddling((edit,), "request", 1)] if edit else []))

    def command(self, name: str, *meddlings: Meddling) -> None:
        """Run it, and look at what it says and leaves."""
        self.planned.clear()
        for meddling in meddlings:
            self.planned[meddling.place, meddling.number].append(meddling)
        if self.api.down:
            self.planned["request", BACK_AT].append(Meddling(("up",), "request", BACK_AT))
        self.most_writes, self.happened = None, set()
        due, written = self._due(name), len(self.api.writes)
        result, failure = self._run(name)
        alone = not self.happened - {"down", "up"}
        if failure is not None:
            assert failure.message
            # A fault alone is no ground to give up, once something is under way.
            if due and alone:
                assert isinstance(failure, ClusterAway), failure
                assert name not in WAITING or len(self.api.writes) == written, failure
        if isinstance(result, Result):
            self._is_true(result)
            assert result.outcome in due or not (due and alone)
        self._record_agrees()

    def _due(self, name: str) -> set[Outcome]:
        """How a command has to end here if nobody meddles; empty where it may have reasons not to."""
        record, spec = self._record(), self.api.spec
        ends = {Outcome.PROMOTED, Outcome.ROLLED_BACK}
        active = self._active()
        if self.edited:
            return set()
        if name == "start":
            return set() if active or spec["predictor"]["model"]["storageUri"] == NEW else ends
        if not active:
            return set()
        if name == "resume":
            return ends
        if name == "pause":
            return {Outcome.PAUSED} if record.phase is Phase.PROGRESSING else set()
        return {Outcome.ROLLED_BACK} if name == "rollback" and not self._took_over() else set()

    def _run(self, name: str) -> tuple[Any, RolloutError | None]:
        """What a command returns, and how it fails; an interrupt has to end it, and nothing else may."""

        def raised(*_: Any) -> None:
            raise KeyboardInterrupt

        self.api.requests = 0
        self.counted.clear()
        before = signal.signal(signal.SIGINT, raised)
        self.running, interrupted = True, False
        result, failure = None, None
        try:
            result = COMMANDS[name](self._rollout(calm=False))
        except KeyboardInterrupt:
            interrupted = True
        except RolloutError as error:
            failure = error
        finally:
            self.running = False
            signal.signal(signal.SIGINT, lambda *_: None)
            signal.signal(signal.SIGINT, before)
        assert interrupted == ("interrupt" in self.happened)
        return result, failure

    def _rollout(self, *, calm: bool) -> Rollout:
        cluster = Cluster(self.api.client(calm=calm), NAMESPACE, retry_s=0.0005)
        return Rollout(NAME, cluster, judges=[self.judge], poll_s=0.001, hold_s=0.02)

    def _before(self, number: int) -> Fault | None:
        """What the plan has for a request; a fault that lasts goes on with the next one."""
        places = ["request", *(["dry run"] if self.api.is_dry_run else [])]
        places += ["write"] if self.api.is_write else []
        places += ["ended"] if self._record() is not None and not self._active() else []
        fault = None
        for place in places:
            self.counted[place] = number if place == "request" else self.counted[place] + 1
            for meddling in self.planned.pop((place, self.counted[place]), []):
                for what in meddling.what:
                    if isinstance(what, Fault):
                        fault = what
                        for later in range(number + 1, number + meddling.lasts):
                            self.planned["request", later].append(Meddling((what,), "request", later))
                    else:
                        self._happens(what, number + meddling.lasts)
        return fault

    def _happens(self, what: str, until: int) -> None:
        if what == "interrupt" and not self.running:
            return
        self.happened.add(what)
        written = len(self.api.writes)
        if what == "interrupt":
            # The move that is going on is finished: two patches at most, and a note of the canary's name.
            self.most_writes = written + 3
            os.kill(os.getpid(), signal.SIGINT)
        elif what in EDITS:
            self.edited, self.other_model = True, self.other_model or what != "edit"
            self.api.edit(EDITS[what])
        elif what in ("down", "up"):
            self.api.down = what == "down"
            if self.api.down:
                self.planned["request", until].append(Meddling(("up",), "request", until))
        else:
            with suppress(RolloutError):
                COMMANDS[what](self._rollout(calm=True))
            if self.most_writes is not None:
                self.most_writes += len(self.api.writes) - written

    def _is_true(self, result: Result) -> None:
        """What a command claims, the service says too."""
        spec, record = self.api.spec, self._record()
        assert record is not None
        if result.outcome is Outcome.PAUSED:
            assert record.paused
        else:
            self._has_ended(spec, Phase(result.outcome))

    def _has_ended(self, spec: dict[str, Any], phase: Phase) -> None:
        assert spec["predictor"]["model"]["storageUri"] == (NEW if phase is Phase.PROMOTED else OLD)
        assert not spec.get("canary")
        assert spec["predictor"].get("canaryTrafficPercent") is None

    def _record_agrees(self) -> None:
        """The spec is what the record announces or what was before, unless somebody edited it."""
        record, spec = self._record(), self.api.spec
        assert self.most_writes is None or len(self.api.writes) <= self.most_writes
        if record is None:
            return
        if not record.phase.active and not self.other_model:
            self._has_ended(spec, record.phase)
        if self.edited:
            return
        told = read_history(self.api.service["status"]["annotations"])
        assert all(entry != following for entry, following in pairwise(told)), "something is told twice"
        assert digest(spec) in (record.before, record.after)
        if record.phase is Phase.PROGRESSING and digest(spec) == record.after:
            assert self._share() == record.percent

    def _share(self) -> int | None:
        spec = self.api.spec
        if spec.get("canary"):
            return int(spec["canary"][0]["trafficPercent"])
        found = spec["predictor"].get("canaryTrafficPercent")
        return None if found is None else int(found)

    def _record(self) -> Any:
        return read_record((self.api.service.get("status") or {}).get("annotations") or {})

    def _active(self) -> bool:
        record = self._record()
        return record is not None and record.phase.active

    def _took_over(self) -> bool:
        """Whether the canary is the stable predictor already, from which only forward is left."""
        record = self._record()
        return (
            bool(record.canary.get("name"))
            and self.api.spec["predictor"].get("name") == record.canary["name"]
        )

    def _end_all(self) -> None:
        """With everything back, a rollback ends it, or going on where that is all that is left."""
        if self._active():
            rollout = self._rollout(calm=True)
            if self._took_over():
                with pytest.raises(NotPossibleNow, match="taken the stable version's place"):
                    rollout.rollback()
                if self.edited:
                    assert rollout.rollback(leave=True).outcome is Outcome.LEFT
                else:
                    assert rollout.resume().outcome is Outcome.PROMOTED
            else:
                with suppress(*([NotPossibleNow] if self.other_model else [])):
                    assert rollout.rollback().outcome is Outcome.ROLLED_BACK
        record = self._record()
        assert record is None or not record.phase.active
        for _ in range(8):
            self.api.reconcile()
        (serving_now,) = [name for name, share in self.api.traffic.items() if share]
        model = self.api.spec["predictor"]["model"]["storageUri"]
        world = self.api.kserve.world(NAMESPACE, NAME)
        assert f'"{model}"' in world.workloads[serving_now].template
        if record is not None and record.phase is not Phase.LEFT and not self.other_model:
            assert model == (NEW if record.phase is Phase.PROMOTED else OLD)
