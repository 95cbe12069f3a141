"""Moves a rollout from one state to the next so that being killed at any moment leaves nothing half-done.

Every move is written down before it is made: first the record says which spec the service has and which it
is to have, then the spec is patched. Whoever comes next finds the one or the other spec and knows what to do;
any third one is somebody else's. Both patches carry the resourceVersion they rest on.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from rollout.cluster import Cluster, Conflict
from rollout.errors import ForeignChange, NoRollout, RolloutError, Superseded
from rollout.knative import Knative
from rollout.mechanism import Mechanism
from rollout.record import (
    HISTORY,
    RECORD,
    Entry,
    Mode,
    Record,
    digest,
    now,
    read_history,
    read_record,
    write_history,
)
from rollout.service import Service, Spec, merge_patch
from rollout.standard import Standard

MECHANISMS: dict[Mode, Mechanism] = {Mode.KNATIVE: Knative(), Mode.STANDARD: Standard()}
_TRIES = 20


@dataclass(frozen=True, slots=True)
class State:
    """A service and its rollout at one moment."""

    service: Service
    record: Record | None

    @classmethod
    def of(cls, service: Service) -> State:
        """What a service says about itself."""
        return cls(service, read_record(service.annotations))

    @property
    def known(self) -> Record:
        """The record.

        Raises:
            NoRollout: the service never had one.
        """
        if self.record is None:
            raise NoRollout(f"{self.service.name} has had no rollout yet; begin one with: rollout start")
        return self.record

    @property
    def mechanism(self) -> Mechanism:
        """The mechanism of the rollout."""
        return MECHANISMS[self.known.mode]

    @property
    def foreign(self) -> bool:
        """Whether the spec is none that the rollout made or started from."""
        return digest(self.service.spec) not in (self.known.before, self.known.after)


class Track:
    """Reads and moves the rollout of one service."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster = cluster
        self._name = name
        self._applied = ""

    def look(self) -> State:
        """The present state."""
        return State.of(self.cluster.get(self._name))

    def move(
        self, state: State, record: Record, action: str, *reasons: str, over_foreign: bool = False
    ) -> State:
        """Go to the state that `record` describes, its digests aside.

        Args:
            state: what the decision rests on; if the rollout has moved since, nothing is done.
            action: for the history.
            over_foreign: go on even if somebody else has changed the spec.

        Raises:
            Superseded: another command has moved the rollout.
            ForeignChange: somebody else has changed the spec.
        """
        with uninterrupted():
            state = self._announce(state, record, self._entry(record, action, reasons), over_foreign)
            return self.complete(state)

    def note(self, state: State, record: Record, action: str = "", *reasons: str) -> State:
        """Change the record alone. Without an action the history keeps silent."""
        entry = self._entry(record, action, reasons) if action else None
        return self._retry(
            state, lambda current: self._write(current, record, entry), [record], over_foreign=True
        )

    def complete(self, state: State) -> State:
        """Make the change that the record announces, unless it is made already.

        Raises:
            Superseded: another command has moved the rollout.
            ForeignChange: somebody else has changed the spec.
        """
        for _ in range(_TRIES):
            record, found = state.known, digest(state.service.spec)
            if found == record.after:
                self._applied = record.after
                return state
            if found != record.before or record.after == self._applied:
                raise ForeignChange(foreign_change(state))
            patch = merge_patch(state.service.spec, state.mechanism.spec(state.service, record))
            try:
                state = State(self.cluster.patch_spec(state.service, patch), record)
            except Conflict:
                state = self._again(state, state.record)
                continue
            if digest(state.service.spec) != record.after:
                # A webhook that answers a dry run differently: what it made of our patch counts.
                state = self.note(state, replace(record, after=digest(state.service.spec)))
        raise RolloutError(f"{self._name} changes too fast to be patched; try again")

    def _announce(self, state: State, record: Record, entry: Entry, over_foreign: bool) -> State:
        def write(current: State) -> State:
            target = MECHANISMS[record.mode].spec(current.service, record)
            patch = merge_patch(current.service.spec, target)
            planned = (
                self.cluster.patch_spec(current.service, patch, dry_run=True) if patch else current.service
            )
            announced = replace(record, before=digest(current.service.spec), after=digest(planned.spec))
            written.append(announced)
            return self._write(current, announced, entry)

        written: list[Record] = []
        if state.record is not None and state.record.phase.active and state.foreign and not over_foreign:
            raise ForeignChange(foreign_change(state))
        return self._retry(state, write, written, over_foreign=over_foreign)

    def _write(self, state: State, record: Record, entry: Entry | None) -> State:
        annotations = {RECORD: record.to_json()}
        if entry:
            annotations[HISTORY] = write_history((*read_history(state.service.annotations), entry))
        return State(self.cluster.patch_annotations(state.service, annotations), record)

    def _retry(
        self, state: State, write: Callable[[State], State], written: list[Record], *, over_foreign: bool
    ) -> State:
        """Write a record; `written` are those that it may be, the newest last."""
        for _ in range(_TRIES):
            try:
                return write(state)
            except Conflict:
                sent = written[-1] if written else None
                state = self._again(state, sent, over_foreign=over_foreign)
                if sent is not None and state.record == sent:
                    return state  # It was carried out, and the answer lost.
        raise RolloutError(f"{self._name} changes too fast to be patched; try again")

    def _again(self, state: State, sent: Record | None, *, over_foreign: bool = False) -> State:
        """The service as it is now, if what was decided on it still holds; KServe writes its status often.

        Args:
            sent: a record that we may have written without learning of it.
        """
        fresh = self.look()
        if fresh.record != state.record and (sent is None or fresh.record != sent):
            raise Superseded(
                f"another command has moved the rollout of {self._name} meanwhile; look at its status"
            )
        ours = {digest(state.service.spec), *([sent.after] if sent else [])}
        if digest(fresh.service.spec) not in ours and not over_foreign:
            raise ForeignChange(foreign_change(fresh))
        return fresh

    def _entry(self, record: Record, action: str, reasons: tuple[str, ...]) -> Entry:
        who = self.cluster.user()
        return Entry(now(), who, record.number, record.model, action, record.percent, reasons)


def foreign_change(state: State) -> str:
    """The message about a spec that is none of ours."""
    service = state.service
    fields = ", ".join(changed_fields(state)) or "the spec"
    return (
        f"{service.last_writer()} has changed {service.name} during the rollout ({fields}); the rollout "
        f"stops. Traffic stays as it is. Give up the canary with `rollout rollback {service.name}`, "
        f"or keep the service as it is now with `rollout rollback {service.name} --leave`"
    )


def expected_spec(state: State) -> Spec:
    """The spec that the rollout would have made of the service it started from."""
    record = state.known
    spec = {key: value for key, value in state.service.spec.items() if key != "canary"}
    return state.mechanism.spec(replace(state.service, spec={**spec, "predictor": record.stable}), record)


def changed_fields(state: State) -> list[str]:
    """Where the spec differs from what the rollout made of it; none if no rollout was ever there."""
    if state.record is None:
        return []
    return list(_leaves(merge_patch(expected_spec(state), state.service.spec), "spec"))


def _leaves(patch: Spec, path: str) -> Iterator[str]:
    for key, value in patch.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{path}.{key}")
        else:
            yield f"{path}.{key}"


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait until the two patches of a move are through."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _: received.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        # However the move ended: an interrupt is not swallowed because another command was faster.
        if received:
            raise KeyboardInterrupt
