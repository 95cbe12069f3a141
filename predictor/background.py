"""Threads for work that would hold up the event loop, bounded and never waited for.

asyncio's own executor has no bound on what waits, is shared by everything, and a shutdown waits minutes for
what runs in it.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
from dataclasses import dataclass
from typing import Any, TypeVar

from predictor.errors import NotReady, QueueFull

Result = TypeVar("Result")

_running = threading.local()


class AbandonedError(Exception):
    """Nobody waits for the work any more."""


def stop_if_abandoned() -> None:
    """To be called between the pieces of long work; does nothing outside of `BackgroundThreads`.

    Raises:
        AbandonedError: the client has left, or the server shuts down.
    """
    job: _Job | None = getattr(_running, "job", None)
    if job is not None and job.abandoned:
        raise AbandonedError


@dataclass(slots=True)
class _Job:
    work: Callable[[], Any]
    context: Context
    loop: asyncio.AbstractEventLoop
    answer: asyncio.Future[Any]
    abandoned: bool = False

    def run(self) -> None:
        """Do the work on this thread and tell the loop."""
        if self.abandoned:
            return
        _running.job = self
        try:
            result, error = self.context.run(self.work), None
        except BaseException as raised:
            result, error = None, raised
        finally:
            _running.job = None
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self._settle, result, error)

    def _settle(self, result: Any, error: BaseException | None) -> None:
        if self.answer.done():
            return
        if error is None:
            self.answer.set_result(result)
        else:
            self.answer.set_exception(error)


class BackgroundThreads:
    """A few daemon threads that do one kind of work.

    Work whose caller is cancelled before it has begun is never begun; work that runs goes on until it asks
    `stop_if_abandoned`, and nothing else runs in its place until then.

    Args:
        name: of the threads, and of the work in error messages.
        threads: most that run at the same time; they are started when needed.
        most_waiting: work beyond this is refused.
    """

    def __init__(self, name: str, *, threads: int, most_waiting: int) -> None:
        self._name = name
        self._most_threads = threads
        self._most_waiting = most_waiting
        self._jobs: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._threads = 0
        self._idle = 0

    async def run(self, work: Callable[..., Result], *arguments: Any) -> Result:
        """What `work(*arguments)` returns or raises, called on one of the threads.

        Raises:
            QueueFull: too much of this kind of work is waiting.
            NotReady: the work was abandoned by somebody else than the caller.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Result] = loop.create_future()
        job = _Job(lambda: work(*arguments), copy_context(), loop, answer)
        self._add(job)
        try:
            return await answer
        except AbandonedError:
            raise NotReady("the server is shutting down; send the request to another replica") from None
        finally:
            job.abandoned = True

    def _add(self, job: _Job) -> None:
        with self._changed:
            while self._jobs and self._jobs[0].abandoned:
                self._jobs.popleft()
            if len(self._jobs) >= self._most_waiting:
                raise QueueFull(
                    f"{len(self._jobs)} requests wait for {self._name}, and {self._most_waiting} is the "
                    "limit; try again later"
                )
            self._jobs.append(job)
            if self._idle < len(self._jobs) and self._threads < self._most_threads:
                self._threads += 1
                name = f"{self._name}-{self._threads}"
                threading.Thread(target=self._work, name=name, daemon=True).start()
            else:
                self._changed.notify()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._idle += 1
                while not self._jobs:
                    self._changed.wait()
                self._idle -= 1
                job = self._jobs.popleft()
            job.run()
            del job
