"""Mixed load for a long time: memory must stay, and every answer must be its caller's own.

KSERVE_LLAMACPP_SOAK_MINUTES sets the time; minutes in which the machine stood still don't count.
"""

from __future__ import annotations

import os
import random
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import pytest
from calls import PATIENCE, ask, metric, resident_mib, wait_until_idle
from canaries import Canaries
from server_process import Server, running_server
from test_clients import leave

MINUTES = float(os.environ.get("KSERVE_LLAMACPP_SOAK_MINUTES", "30"))
pytestmark = [pytest.mark.faults, pytest.mark.timeout(MINUTES * 60 + 3 * PATIENCE)]

CLIENTS = 6
SAMPLES = 60
PREFIX_CACHE_MIB = 64
MAX_GROWTH_MIB = 12


@dataclass(frozen=True)
class Memory:
    """MiB of the server's process at one moment.

    Attributes:
        resident: all of it.
        prefixes: what the prefix cache takes of it, by the server's own metric. It grows to its limit, and
            shrinks when one long prefix takes the place of several.
    """

    resident: float
    prefixes: float

    @classmethod
    def of(cls, server: Server) -> Memory:
        return cls(resident_mib(server), metric(server, "prefix_cache_host_bytes") / 2**20)

    @property
    def rest(self) -> float:
        """What nothing may make grow."""
        return self.resident - self.prefixes


def test_a_long_soak(model_path: Path, tmp_path: Path, record: Any) -> None:
    folder = str(tmp_path / "prefixes")
    cache = ("--prefix-cache-mib", str(PREFIX_CACHE_MIB))
    options = (*cache, "--prefix-cache-dir", folder, "--prefix-cache-dir-mib", "64")
    with running_server(model_path, tmp_path / "log", *options) as server:
        canaries, failures, disconnects = Canaries(), [], [0]
        ended = threading.Event()

        def client(seed: int) -> None:
            chance = random.Random(seed)
            while not ended.is_set():
                try:
                    if chance.random() < 0.25:
                        leave(server, chance.randrange(2**31))
                        disconnects[0] += 1
                    elif chance.random() < 0.1:
                        httpx.post(f"{server.http_url}/v1/completions", content=b"{", timeout=PATIENCE)
                    else:
                        ask(server, canaries, chance.choice([4, 12, 60]))
                except Exception as error:
                    failures.append(repr(error))

        threads = [threading.Thread(target=client, args=(seed,)) for seed in range(CLIENTS)]
        for thread in threads:
            thread.start()
        samples, pause, spent = [], MINUTES * 60 / SAMPLES, 0.0
        while spent < MINUTES * 60:
            began = time.monotonic()
            time.sleep(pause)
            samples.append(Memory.of(server))
            spent += min(time.monotonic() - began, 2 * pause)
        ended.set()
        for thread in threads:
            thread.join(PATIENCE)
        wait_until_idle(server)
        assert not failures, failures[:3]
        canaries.assert_own()
        assert "Traceback" not in server.log.read_text()
        tokens = metric(server, "generation_tokens_total")
    quarter = len(samples) // 4
    before = median(sample.rest for sample in samples[quarter : 2 * quarter])
    after = median(sample.rest for sample in samples[-quarter:])
    assert after - before < MAX_GROWTH_MIB, samples
    assert max(sample.prefixes for sample in samples) <= PREFIX_CACHE_MIB
    last = samples[-1]
    record(
        f"Soak of {MINUTES:g} minutes",
        canaries.checked + disconnects[0],
        canaries.checked + disconnects[0],
        0,
        f"{canaries.checked} answers ({tokens:.0f} tokens), {disconnects[0]} disconnects, no failure, "
        f"no foreign word; memory {samples[0].resident:.0f} MiB at first, {last.resident:.0f} at the end, of "
        f"which {last.prefixes:.0f} prefixes; the rest went from {before:.0f} MiB in the second quarter to "
        f"{after:.0f} in the last",
    )
