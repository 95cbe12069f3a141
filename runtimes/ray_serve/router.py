"""Sends a request to the replica that has computed the beginning of its prompt before.

Ray Serve's API for this is alpha:
https://docs.ray.io/en/latest/serve/advanced-guides/custom-request-router.html
Ray's own prefix router is made for its vLLM deployments and keeps its tree in an actor, one more process and
one more call per request; here the table is in the gateway's process.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

KNOWN_PREFIXES = 65_536
WORTHWHILE = 0.5
"""Part of a prompt that a replica must know to be preferred."""


class PrefixTable:
    """Which replicas have seen which beginnings; the least recently used are forgotten.

    Args:
        capacity: beginnings remembered.
    """

    def __init__(self, capacity: int = KNOWN_PREFIXES) -> None:
        self._capacity = capacity
        self._replicas: OrderedDict[int, set[ReplicaID]] = OrderedDict()

    def add(self, keys: Sequence[int], replica: ReplicaID) -> None:
        """The replica is computing the prompt with these keys."""
        for key in keys:
            self._replicas.setdefault(key, set()).add(replica)
            self._replicas.move_to_end(key)
        while len(self._replicas) > self._capacity:
            self._replicas.popitem(last=False)

    def keep_only(self, replicas: set[ReplicaID]) -> None:
        """Forget replicas that are gone, and what they knew."""
        for key, known in list(self._replicas.items()):
            known &= replicas
            if not known:
                del self._replicas[key]

    def longest(self, keys: Sequence[int]) -> tuple[int, set[ReplicaID]]:
        """How many of the first keys the replicas know that know the most, and which those are."""
        for length in range(len(keys), 0, -1):
            if known := self._replicas.get(keys[length - 1]):
                return length, known
        return 0, set()


class PrefixRouter(RequestRouter):
    """Prefers the replica that knows the prompt's beginning unless it is overloaded, then the less busy.

    A replica is overloaded when it has `most_ahead` requests more than the least busy one.
    """

    def initialize_state(self, most_ahead: int = 8, **_: Any) -> None:
        """Ray Serve calls this with `request_router_kwargs`."""
        self._most_ahead = most_ahead
        self._table = PrefixTable()
        # Ray's queue lengths are forgotten after ten seconds without news, which long requests outlast.
        self._running: dict[str, ReplicaID] = {}
        self._routed: Counter[ReplicaID] = Counter()

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Ranks of candidates, the best first."""
        if pending_request is not None:
            # All replicas are among the candidates, so when none takes the request it has to wait.
            pending_request.routing_context.should_backoff = True
        by_id = {replica.replica_id: replica for replica in candidate_replicas}
        keys = _keys(pending_request)
        order = preference(list(by_id), keys, self._table, self._busy, self._most_ahead)
        if order:
            # Before it is accepted, so that requests of the same burst follow it.
            self._table.add(keys, order[0])
        return [[by_id[replica]] for replica in order]

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: Any) -> None:
        """The replica has accepted the request."""
        self._running[pending_request.metadata.internal_request_id] = replica_id
        self._routed[replica_id] += 1
        self._table.add(_keys(pending_request), replica_id)

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        """The request has ended, or was never accepted."""
        self._running.pop(internal_request_id, None)

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Replicas have come or gone."""
        super().update_replicas(replicas)
        for gone in self._routed.keys() - self.curr_replicas.keys():
            del self._routed[gone]
        self._table.keep_only(set(self.curr_replicas))

    def _busy(self, replica: ReplicaID) -> tuple[int, int]:
        running = sum(other == replica for other in self._running.values())
        return max(running, self.replica_queue_len_cache.get(replica) or 0), self._routed[replica]


def preference(
    replicas: Sequence[ReplicaID],
    keys: Sequence[int],
    table: PrefixTable,
    busy: Callable[[ReplicaID], tuple[int, int]],
    most_ahead: int,
) -> list[ReplicaID]:
    """All replicas, the best for the prompt first.

    Args:
        replicas: those that run.
        keys: of the prompt.
        table: who knows which prompts.
        busy: a replica's requests now, and since its start.
        most_ahead: see `PrefixRouter`.
    """
    by_load = sorted(replicas, key=busy)
    length, known = table.longest(keys)
    if not known or length < WORTHWHILE * len(keys):
        return by_load
    limit = busy(by_load[0])[0] + most_ahead
    holders = [replica for replica in by_load if replica in known and busy(replica)[0] < limit]
    return list(dict.fromkeys([*holders, *by_load]))


def _keys(request: PendingRequest | None) -> tuple[int, ...]:
    keys: tuple[int, ...] = request.kwargs.get("prefix", ()) if request is not None else ()
    return keys
