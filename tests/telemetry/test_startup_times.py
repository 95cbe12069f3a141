"""The parts of a start, measured by real processes and threads."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

from predictor.telemetry.startup_times import StartupTimes


def test_the_time_before_counts_from_the_process_start() -> None:
    code = (
        "import time; time.sleep(0.5)\n"
        "from predictor.telemetry.startup_times import StartupTimes\n"
        "times = StartupTimes(); times.finish(); print(times.parts['python'], times.parts['total'])"
    )
    started = time.perf_counter()
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    took = time.perf_counter() - started
    python, total = map(float, output.split())
    assert 0.5 <= python <= total <= took + 0.01  # the kernel counts in hundredths


def test_the_end_of_a_part_can_be_told_apart() -> None:
    times = StartupTimes()
    with times.measure("load"):
        time.sleep(0.3)
    whole = times.parts["load"]
    times.split("load", "warm_up", 0.1)
    assert (times.parts["load"] + 0.1, times.parts["warm_up"]) == (whole, 0.1)
    assert str(times).endswith(f"load {whole - 0.1:.2f} s, warm_up 0.10 s")


def test_parts_on_two_threads_may_overlap() -> None:
    times = StartupTimes()
    before = time.perf_counter()

    def load() -> None:
        with times.measure("load"):
            time.sleep(0.3)

    thread = threading.Thread(target=load)
    thread.start()
    with times.measure("imports"):
        time.sleep(0.2)
    thread.join()
    times.finish()
    took = time.perf_counter() - before
    assert 0.2 <= times.parts["imports"] < took
    assert 0.3 <= times.parts["load"] < took
    assert times.parts["total"] - times.parts["python"] >= took
