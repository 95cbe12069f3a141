"""Threads for long work: bounded, and done with when nobody waits."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from contextvars import ContextVar

import pytest

from predictor.background import AbandonedError, BackgroundThreads, stop_if_abandoned
from predictor.errors import InvalidRequest, QueueFull

NAME: ContextVar[str] = ContextVar("name")


@pytest.fixture
def one() -> BackgroundThreads:
    return BackgroundThreads("test", threads=1, most_waiting=2)


async def test_results_errors_and_context_come_through(one: BackgroundThreads) -> None:
    def fail() -> None:
        raise InvalidRequest("no")

    NAME.set("mine")
    assert await one.run(lambda a, b: (a + b, NAME.get()), 1, 2) == (3, "mine")
    with pytest.raises(InvalidRequest, match="no"):
        await one.run(fail)
    assert await one.run(threading.current_thread) is not threading.current_thread()


async def test_what_waits_is_bounded(one: BackgroundThreads) -> None:
    go = threading.Event()
    running = [asyncio.create_task(one.run(go.wait, 20))]
    await asyncio.sleep(0.1)
    running += [asyncio.create_task(one.run(go.wait, 20)) for _ in range(2)]
    await asyncio.sleep(0.1)
    with pytest.raises(QueueFull, match="2 requests wait for test"):
        await one.run(go.wait, 20)
    go.set()
    assert await asyncio.gather(*running) == [True] * 3


async def test_who_leaves_takes_no_turn_and_frees_none_early(one: BackgroundThreads) -> None:
    """Work that runs on behalf of nobody still counts until it ends."""
    began: list[str] = []
    go, ended = threading.Event(), threading.Event()

    def work(name: str) -> None:
        began.append(name)
        go.wait(20)
        try:
            stop_if_abandoned()
        except AbandonedError:
            ended.set()
            raise

    first, second = (asyncio.create_task(one.run(work, name)) for name in ("first", "second"))
    await asyncio.sleep(0.1)
    third = asyncio.create_task(one.run(work, "third"))
    await asyncio.sleep(0.1)
    first.cancel()
    second.cancel()
    await asyncio.sleep(0.1)
    assert began == ["first"]
    go.set()
    await third
    assert ended.is_set()
    assert began == ["first", "third"]


async def test_several_threads_work_at_once() -> None:
    threads = BackgroundThreads("test", threads=3, most_waiting=9)
    together = threading.Barrier(3)
    places = await asyncio.gather(*(threads.run(together.wait, 20) for _ in range(3)))
    assert sorted(places) == [0, 1, 2]


def test_outside_of_the_threads_nothing_stops() -> None:
    stop_if_abandoned()


def test_a_process_does_not_wait_for_them() -> None:
    program = """
import asyncio, time
from predictor.background import BackgroundThreads
async def main():
    threads = BackgroundThreads("test", threads=1, most_waiting=9)
    waiting = asyncio.create_task(threads.run(time.sleep, 600))
    await asyncio.sleep(0.1)
    waiting.cancel()
asyncio.run(main())
"""
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
    assert time.monotonic() - started < 100
