"""A queueing model of replicas: requests in, what their counters say at every look out.

A replica has so many places. Requests wait in order of arrival for one, read their prompt, then answer; how
long that takes is drawn from `service_times.json`, which `scripts/record_service_times.py` recorded from a
running server. Requests are divided among replicas at random. All revisions of a rollout share the moments
of the arrivals' rate: what is a burst for one is a burst for all.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from predictor.telemetry.metrics import REQUEST_SECONDS, TOKEN_SECONDS
from rollout.analysis.counters import Counters, Latency, PodLook
from rollout.analysis.histogram import Histogram

Floats = NDArray[np.float64]

LOOK_S = 10.0
WARM_UP_S = 120.0
DOWN_S = 10.0
_TOKENS, _PREFILL, _DECODE = np.array(
    json.loads((Path(__file__).parent / "service_times.json").read_text())["requests"]
).T
# The recording was made beside other work, so only the proportions of its times are kept.
MEAN_SERVICE_S = 2.0
_PREFILL, _DECODE = MEAN_SERVICE_S / (_PREFILL + _DECODE).mean() * np.array([_PREFILL, _DECODE])
_WAITS = np.array([*REQUEST_SECONDS, np.inf])
_GAPS = np.array([*TOKEN_SECONDS, np.inf])


@dataclass(frozen=True)
class Behaviour:
    """What is wrong with a revision; nothing by default.

    Attributes:
        errors: share of requests that end in an error.
        slowness: by what all service times are multiplied.
        hung: share of requests that never get a token.
        stalled: share of requests whose first token takes 200 s more, though they hold no place.
        crash_s: mean seconds between deaths of each process; 0 for none.
        fewer_places: by how many the requests are fewer that a replica serves at a time.
    """

    errors: float = 0.0
    slowness: float = 1.0
    hung: float = 0.0
    stalled: float = 0.0
    crash_s: float = 0.0
    fewer_places: int = 0


@dataclass(frozen=True)
class Clients:
    """What clients do, whatever revision they meet.

    Attributes:
        patience_s: mean of how long they wait for the first token, at least half a minute.
        leave: share of those that leave while their answer flows.
    """

    patience_s: float = 60.0
    leave: float = 0.03


Rate = Callable[[np.random.Generator, float], tuple[Floats, Floats]]


def steady(_: np.random.Generator, end: float) -> tuple[Floats, Floats]:
    """Times, and how much of the expected traffic has come by then, in seconds of mean traffic."""
    return np.array([0.0, end]), np.array([0.0, end])


def bursty(random: np.random.Generator, end: float) -> tuple[Floats, Floats]:
    """Half the mean, and three times the mean a fifth of the time, in bursts of ten seconds or so."""
    times, come = [0.0], [0.0]
    burst = False
    while times[-1] < end:
        lasts = random.exponential(10.0 if burst else 40.0)
        times.append(times[-1] + lasts)
        come.append(come[-1] + lasts * (3.0 if burst else 0.5))
        burst = not burst
    return np.array(times), np.array(come)


def diurnal(random: np.random.Generator, end: float) -> tuple[Floats, Floats]:
    """Some hour of a day in which traffic swings between half and one and a half times the mean."""
    times = np.arange(0.0, end + 10, 10.0)
    phase = random.uniform(0, 2 * np.pi)
    angular = 2 * np.pi / 86_400
    swing = 0.5 / angular * (np.cos(phase) - np.cos(angular * times + phase))
    return times, times + swing


@dataclass
class Requests:
    """What happened at the replicas of one revision: arrays of shape (replicas, requests); inf for never.

    Attributes:
        arrived, admitted, first, ended, gave_up: seconds from the first look, the warm-up before it negative.
        failed, left: how those ended that did.
        prompt: seconds from admission to the first token.
        gap: seconds between two tokens.
        tokens: of the answer.
        crashes: of each replica.
    """

    arrived: Floats
    admitted: Floats
    first: Floats
    ended: Floats
    gave_up: Floats
    failed: NDArray[np.bool_]
    left: NDArray[np.bool_]
    prompt: Floats
    gap: Floats
    tokens: Floats
    crashes: list[Floats] = field(default_factory=list)


def arrivals(
    random: np.random.Generator, rates: list[tuple[Floats, Floats]], replicas: int, per_s: float, end: float
) -> Floats:
    """Poisson arrivals at the replicas of several runs: of shape (runs * replicas, most requests).

    Args:
        rates: of each run, what a `Rate` gave.
        per_s: mean requests per second and replica.
    """
    most = int(per_s * 1.6 * end + 6 * np.sqrt(per_s * end) + 10)
    unit = random.exponential(1.0, (len(rates) * replicas, most)).cumsum(axis=1) / per_s
    for run, (times, come) in enumerate(rates):
        rows = slice(run * replicas, (run + 1) * replicas)
        unit[rows] = np.interp(unit[rows], come, times, right=np.inf)
    unit[unit > end] = np.inf
    return unit[:, : max(1, int(np.isfinite(unit).sum(axis=1).max()))]


def serve(
    random: np.random.Generator, arrived: Floats, places: int, behaviour: Behaviour, clients: Clients
) -> Requests:
    """Let all replicas serve what arrives at them."""
    shape = arrived.shape
    kind = random.integers(0, len(_PREFILL), shape)
    slower = behaviour.slowness * random.lognormal(0.0, 0.15, shape)
    prefill, decode = _PREFILL[kind] * slower, _DECODE[kind] * slower
    hung = random.random(shape) < behaviour.hung
    aside = hung | (random.random(shape) < behaviour.stalled)
    patience = 30.0 + random.exponential(max(1e-9, clients.patience_s - 30.0), shape)
    leaves = arrived + patience
    held = np.where(aside, 0.0, prefill + decode)
    admitted = _admitted(arrived, prefill, held, leaves, places - behaviour.fewer_places)
    admitted = np.where(aside, arrived, admitted)
    first = admitted + prefill + np.where(aside, np.where(hung, np.inf, 200.0), 0.0)
    gave_up = np.where(leaves < first, leaves, np.inf)
    first = np.where(np.isfinite(gave_up), np.inf, first)
    return Requests(
        arrived,
        admitted,
        first,
        first + decode,
        gave_up,
        random.random(shape) < behaviour.errors,
        random.random(shape) < clients.leave,
        prefill,
        decode / np.maximum(1, _TOKENS[kind] - 1),
        _TOKENS[kind],
    )


def _admitted(arrived: Floats, prefill: Floats, held: Floats, leaves: Floats, places: int) -> Floats:
    """When each request gets a place, first come, first served; all replicas in step.

    Args:
        held: for how long it keeps its place; 0 for one that takes none.
        leaves: when its client gives up, if no token has come by then, which frees its place too.
    """
    rows = np.arange(len(arrived))
    free = np.full((len(arrived), places), -np.inf)
    admitted = np.full(arrived.shape, np.inf)
    for column in range(arrived.shape[1]):
        place = free.argmin(axis=1)
        start = np.maximum(arrived[:, column], free[rows, place])
        admitted[:, column] = start
        given_up = start + prefill[:, column] > leaves[:, column]
        end = np.where(given_up, leaves[:, column], start + held[:, column])
        busy = (held[:, column] > 0) & (end > start)
        free[rows[busy], place[busy]] = end[busy]
    return admitted


class Looks:
    """The counters of one revision's replicas at every look of one run.

    Args:
        requests: of this run.
        looks: how many, `LOOK_S` apart, the first at 0.
        lost: share of looks at which a replica's metrics can't be had.
    """

    def __init__(self, random: np.random.Generator, requests: Requests, looks: int, lost: float) -> None:
        self._looks = looks
        self._replicas = len(requests.arrived)
        self._lost = random.random((self._replicas, looks)) < lost
        self._requests = requests
        r = _without_lost(requests)
        arrived = np.where(np.isfinite(r.arrived), r.arrived, 0.0)
        answered = np.isfinite(r.first)
        ended_well = ~r.failed & ~r.left
        ended_first = np.where(answered, r.ended, np.inf)
        self._good = self._count(np.where(ended_well, ended_first, np.inf))
        gave_up_by = self._histogram(r.gave_up, r.gave_up - arrived, _WAITS)
        self._given_up = gave_up_by[..., -1]
        self._bad = self._count(np.where(r.failed, ended_first, np.inf)) + self._given_up
        self._first = self._histogram(r.first, r.first - arrived, _WAITS)
        queued = np.where(r.left | r.failed, np.inf, ended_first)
        self._queue = self._histogram(queued, r.admitted - arrived, _WAITS)
        self._prompt = self._histogram(queued, r.prompt, _WAITS)
        self._gaps = self._histogram(ended_first, r.gap, _GAPS, np.maximum(0, r.tokens - 1))
        self._waited = self._first + gave_up_by
        now = self._waiting_now(r)
        out = np.where(answered, r.ended, r.gave_up)
        self._in_hand = self._count(r.arrived) - self._count(out)
        self._started = np.zeros((self._replicas, looks))
        self._down = np.zeros((self._replicas, looks), dtype=bool)
        for replica, times in enumerate(requests.crashes):
            for time in times:
                self._restart(replica, float(time))
        self._waited = self._waited + now

    def _restart(self, replica: int, time: float) -> None:
        """From the crash on, counters are what came since."""
        look = max(0, int(np.ceil(time / LOOK_S)))
        if look >= self._looks:
            return
        before = max(0, look - 1)
        histograms = self._first, self._queue, self._prompt, self._gaps, self._waited
        if (
            self._started[replica, look] == self._started[replica, before]
        ):  # the first one since the last look
            for counted in (self._good, self._bad, self._given_up, *histograms):
                counted[replica, look:] -= counted[replica, before].copy()
        self._started[replica, look:] = time + 1e6
        self._down[replica, look : look + int(DOWN_S / LOOK_S)] = True

    def at(self, look: int) -> dict[str, PodLook]:
        """Each replica that can be seen."""
        return {
            f"pod-{replica}": self._of(replica, look)
            for replica in range(self._replicas)
            if not self._lost[replica, look] and not self._down[replica, look]
        }

    def _of(self, replica: int, look: int) -> PodLook:
        waits, gaps = tuple(_WAITS.tolist()), tuple(_GAPS.tolist())
        counters = Counters(
            float(self._good[replica, look]),
            float(self._bad[replica, look]),
            float(self._given_up[replica, look]),
            {
                Latency.FIRST_TOKEN: Histogram(waits, tuple(self._first[replica, look].tolist())),
                Latency.INTER_TOKEN: Histogram(gaps, tuple(self._gaps[replica, look].tolist())),
                Latency.PROMPT: Histogram(waits, tuple(self._prompt[replica, look].tolist())),
                Latency.QUEUE: Histogram(waits, tuple(self._queue[replica, look].tolist())),
            },
            Histogram(waits, tuple(self._waited[replica, look].tolist())),
        )
        started = float(self._started[replica, look]) or 1.0
        return PodLook(counters, float(self._in_hand[replica, look]), 0.0, started)

    def _look_of(self, times: Floats) -> NDArray[np.int64]:
        """The first look at or after a time; the number of looks for never."""
        capped = np.clip(times / LOOK_S, 0, self._looks)
        return np.ceil(capped).astype(np.int64)

    def _count(self, times: Floats) -> Floats:
        return self._histogram(times, np.zeros(times.shape), np.array([np.inf]))[..., 0]

    def _histogram(
        self, times: Floats, values: Floats, bounds: Floats, weights: Floats | None = None
    ) -> Floats:
        """Cumulative in time and value: of shape (replicas, looks, bounds)."""
        replica = np.broadcast_to(np.arange(self._replicas)[:, None], times.shape)
        known = np.isfinite(times)
        look = self._look_of(np.where(known, times, 0.0))
        known &= look < self._looks
        bucket = np.searchsorted(bounds, np.where(known, values, 0.0))
        flat = (replica * self._looks + look) * len(bounds) + bucket
        shape = (self._replicas, self._looks, len(bounds))
        chosen = None if weights is None else weights[known]
        counts = np.bincount(flat[known], chosen, int(np.prod(shape))).reshape(shape)
        cumulative: Floats = counts.astype(float).cumsum(axis=1).cumsum(axis=2)
        return cumulative

    def _waiting_now(self, r: Requests) -> Floats:
        """At each look, how long those have waited that have no token: not cumulative in time."""
        until = np.minimum(r.first, r.gave_up)
        begin = self._look_of(r.arrived)
        end = self._look_of(np.where(np.isfinite(until), until, np.inf))
        begin = np.where(np.isfinite(r.arrived), begin, self._looks)
        spans = np.maximum(0, end - begin)
        rows, columns = np.nonzero(spans)
        counts = spans[rows, columns]
        which = np.repeat(np.arange(len(rows)), counts)
        offset = np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts, counts)
        look = begin[rows, columns][which] + offset
        age = look * LOOK_S - r.arrived[rows, columns][which]
        bucket = np.searchsorted(_WAITS, age)
        shape = (self._replicas, self._looks, len(_WAITS))
        flat = (rows[which] * self._looks + look) * len(_WAITS) + bucket
        found: Floats = (
            np.bincount(flat, None, int(np.prod(shape))).reshape(shape).astype(float).cumsum(axis=2)
        )
        return found


def _without_lost(r: Requests) -> Requests:
    """Requests that a crash ends never end by themselves."""
    if not any(len(times) for times in r.crashes):
        return r
    first, ended, gave_up = r.first.copy(), r.ended.copy(), r.gave_up.copy()
    for replica, times in enumerate(r.crashes):
        for time in times:
            out = np.where(np.isfinite(first[replica]), ended[replica], gave_up[replica])
            lost = (r.arrived[replica] <= time) & (out > time)
            first[replica] = np.where(lost & (first[replica] > time), np.inf, first[replica])
            ended[replica] = np.where(lost, np.inf, ended[replica])
            gave_up[replica] = np.where(lost, time, gave_up[replica])
    return Requests(
        r.arrived, r.admitted, first, ended, gave_up, r.failed, r.left, r.prompt, r.gap, r.tokens, r.crashes
    )


def of_run(requests: Requests, rows: slice) -> Requests:
    """One run's part of what `serve` made for several."""
    arrays = {
        name: getattr(requests, name)[rows]
        for name in (
            "arrived",
            "admitted",
            "first",
            "ended",
            "gave_up",
            "failed",
            "left",
            "prompt",
            "gap",
            "tokens",
        )
    }
    return Requests(**arrays)


def chunks(total: int, size: int) -> Iterator[int]:
    """Sizes of parts that make `total` together."""
    while total > 0:
        yield min(size, total)
        total -= size
