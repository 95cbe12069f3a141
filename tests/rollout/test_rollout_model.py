"""A model check of the driver: whatever the API server, the controller and other people do meanwhile.

After every command: no end is claimed that isn't so, a command ends with a result or with a word, and what
the record announces is what the spec is, or was. In the end, with everything back, one version serves.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

import pytest
from fake_api import NAME, NAMESPACE, FakeApi, Fault, serving
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from rollout import Cluster, Outcome, Plan, Rollout
from rollout.errors import ClusterAway, NotPossibleNow, RolloutError
from rollout.record import Phase, digest, read_record
from rollout.result import Result
from rollout.verdict import Decision, Revision, Verdict

OLD, NEW = "hf://owner/old", "hf://owner/new"
# The clocks are real, so all of them are short.
PLAN = Plan((25, 100), interval_s=0.0, ready_timeout_s=1.0, verdict_timeout_s=1.0)


class Says:
    """A judge that rolls back at a percentage, or never; one that is broken pauses the rollout."""

    def __init__(self, bad_at: int | None, broken_at: int | None = None) -> None:
        self.bad_at, self.broken_at = bad_at, broken_at

    def judge(self, stable: Revision, canary: Revision, elapsed_s: float) -> Verdict:
        if canary.traffic_percent == self.broken_at:
            raise RolloutError("set up wrongly")
        bad = canary.traffic_percent == self.bad_at
        return Verdict(Decision.ROLL_BACK if bad else Decision.PROCEED, ("bad",) if bad else ())


COMMANDS: dict[str, Callable[[Rollout], Any]] = {
    "start": lambda rollout: rollout.start(NEW, PLAN),
    "resume": lambda rollout: rollout.resume(),
    "promote": lambda rollout: rollout.promote(),
    "rollback": lambda rollout: rollout.rollback(),
    "step": lambda rollout: rollout.step(),
    "pause": lambda rollout: rollout.pause(),
}

# A command makes some 20 to 70 requests.
AT = st.integers(1, 70)
LASTS = st.integers(1, 60)
# A controller that is still away comes back at this request of the next command.
BACK_AT = 45
# What happens, at which request, and for how many of them it lasts.
MEDDLING = st.one_of(
    st.tuples(st.sampled_from(Fault), AT, st.just(1)),
    st.tuples(st.sampled_from([Fault.LOST_REQUEST, Fault.ERROR]), AT, st.integers(5, 15)),
    st.tuples(st.just("down"), AT, LASTS),
    st.tuples(st.sampled_from(["interrupt", "edit", *sorted(COMMANDS)]), AT, st.just(1)),
)


class RolloutMachine(RuleBasedStateMachine):
    """Commands one after another, each with what happens at some of its requests."""

    @initialize(
        mode=st.sampled_from(["Standard", "Knative"]),
        bad_at=st.sampled_from([None, None, 25, 100]),
        paused_at=st.sampled_from([None, 0, 25, 100]),
    )
    def begin(self, mode: str, bad_at: int | None, paused_at: int | None) -> None:
        self.stack = ExitStack()
        self.api = self.stack.enter_context(serving(FakeApi(mode)))
        self.edited = self.running = False
        self.planned: dict[int, Any] = {}
        self.happened: set[str] = set()
        self.interrupted_at: int | None = None
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
    @rule(meddling=st.lists(MEDDLING, max_size=3))
    def start(self, meddling: list[tuple[Any, int, int]]) -> None:
        self._command("start", meddling)

    @precondition(lambda self: self._active())
    @rule(
        name=st.sampled_from(["rollback", "resume", "promote", "step", "pause"]),
        meddling=st.lists(MEDDLING, max_size=3),
    )
    def go_on(self, name: str, meddling: list[tuple[Any, int, int]]) -> None:
        self._command(name, meddling)

    def _command(self, name: str, meddling: list[tuple[Any, int, int]]) -> None:
        """Run it, and look at what it says."""
        for what, at, lasts in meddling:
            if what == "down":
                self.planned.setdefault(at, "down")
                self.planned.setdefault(at + lasts, "up")
                continue
            for number in range(at, at + lasts):
                self.planned.setdefault(number, what)
        self.interrupted_at, self.happened = None, set()
        due, written = self._due(name), len(self.api.writes)
        result: Any = None
        failure: RolloutError | None = None
        try:
            result = self._run(name)
        except KeyboardInterrupt:
            self.happened.add("interrupted")
        except RolloutError as error:
            failure = error
        assert "interrupted" not in self.happened or "interrupt" in self.happened
        if failure is not None:
            assert failure.message
            # A fault alone is no ground to give up, once something is under way.
            if due and not self.happened - {"down", "up"}:
                assert isinstance(failure, ClusterAway), failure
                assert len(self.api.writes) == written, failure
        self.planned.clear()
        if self.api.down:
            self.planned[BACK_AT] = "up"
        if isinstance(result, Result):
            self._is_true(result)
            if due and not self.happened - {"down", "up"}:
                assert result.outcome in due
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

    def _rollout(self, *, calm: bool) -> Rollout:
        cluster = Cluster(self.api.client(calm=calm), NAMESPACE, retry_s=0.0005)
        return Rollout(NAME, cluster, judges=[self.judge], poll_s=0.001, hold_s=0.02)

    def _run(self, name: str) -> Any:
        def raised(*_: Any) -> None:
            raise KeyboardInterrupt

        self.api.requests = 0
        before = signal.signal(signal.SIGINT, raised)
        self.running = True
        try:
            return COMMANDS[name](self._rollout(calm=False))
        finally:
            self.running = False
            signal.signal(signal.SIGINT, lambda *_: None)
            signal.signal(signal.SIGINT, before)

    def _before(self, number: int) -> Fault | None:
        what = self.planned.pop(number, None)
        if isinstance(what, Fault):
            return what
        if what is not None:
            self.happened.add(what)
        if what == "interrupt" and self.running:
            self.interrupted_at = len(self.api.writes)
            os.kill(os.getpid(), signal.SIGINT)
        elif what == "edit":
            self._edit()
        elif what in ("down", "up"):
            self.api.down = what == "down"
        elif what is not None and what in COMMANDS:
            with suppress(RolloutError):
                COMMANDS[what](self._rollout(calm=True))
        return None

    def _edit(self) -> None:
        self.edited = True
        self.api.edit({"predictor": {"timeout": 77}})

    def _is_true(self, result: Result) -> None:
        """What a command claims, the service says too."""
        spec, record = self.api.spec, self._record()
        assert record is not None
        model = spec["predictor"]["model"]["storageUri"]
        if result.outcome is Outcome.PROMOTED:
            assert model == NEW
            assert not spec.get("canary")
        elif result.outcome is Outcome.ROLLED_BACK:
            assert model == OLD
            assert not spec.get("canary")
            assert spec["predictor"].get("canaryTrafficPercent") is None
        elif result.outcome is Outcome.PAUSED:
            assert record.paused

    def _record(self) -> Any:
        return read_record((self.api.service.get("status") or {}).get("annotations") or {})

    def _record_agrees(self) -> None:
        """The spec is what the record announces or what was before, unless somebody edited it."""
        record = self._record()
        if record is None or self.edited:
            return
        assert digest(self.api.spec) in (record.before, record.after)
        if record.phase is Phase.PROGRESSING and digest(self.api.spec) == record.after:
            assert self._share() == record.percent
        if self.interrupted_at is not None:
            # The move that was going on is finished: two patches at most, and a note of the canary's name.
            assert len(self.api.writes) <= self.interrupted_at + 3

    def _share(self) -> int | None:
        spec = self.api.spec
        if spec.get("canary"):
            return int(spec["canary"][0]["trafficPercent"])
        found = spec["predictor"].get("canaryTrafficPercent")
        return None if found is None else int(found)

    def _end_all(self) -> None:
        """With everything back, a rollback ends it, or going on where that is all that is left."""
        record = self._record()
        if record is not None and record.phase.active:
            rollout = self._rollout(calm=True)
            if not self._took_over():
                assert rollout.rollback().outcome is Outcome.ROLLED_BACK
            else:
                with pytest.raises(NotPossibleNow):
                    rollout.rollback()
                if self.edited:
                    assert rollout.rollback(leave=True).outcome is Outcome.LEFT
                else:
                    assert rollout.resume().outcome is Outcome.PROMOTED
        record = self._record()
        assert record is None or not record.phase.active
        for _ in range(8):
            self.api.reconcile()
        serving_now = [name for name, share in self.api.traffic.items() if share]
        assert len(serving_now) == 1
        model = self.api.spec["predictor"]["model"]["storageUri"]
        world = self.api.kserve.world(NAMESPACE, NAME)
        assert f'"{model}"' in world.workloads[serving_now[0]].template
        if record is not None and record.phase is not Phase.LEFT:
            assert model == (NEW if record.phase is Phase.PROMOTED else OLD)


def check(examples: int, steps: int) -> None:
    profile = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    run_state_machine_as_test(RolloutMachine, settings=profile)


def test_whatever_happens_meanwhile() -> None:
    check(25, 3)


@pytest.mark.slow
def test_whatever_happens_meanwhile_many_times() -> None:
    check(2000, 6)
