"""Mixed load for a long time: memory must stay, and every answer must be its caller's own.

KSERVE_LLAMACPP_SOAK_MINUTES sets the time.
"""

from __future__ import annotations

import os
import random
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from calls import ask, metric, resident_mib, wait_until_idle
from canaries import Canaries
from server_process import running_server
from test_clients import leave

MINUTES = float(os.environ.get("KSERVE_LLAMACPP_SOAK_MINUTES", "30"))
pytestmark = [pytest.mark.faults, pytest.mark.timeout(MINUTES * 60 + 900)]

CLIENTS = 6
SAMPLES = 40
MAX_GROWTH_MIB = 40


def test_a_long_soak(model_path: Path, tmp_path: Path, record: Any) -> None:
    folder = str(tmp_path / "prefixes")
    # A cache so small that it is full within the first third: what grows after that is no cache.
    options = ("--prefix-cache-mib", "8", "--prefix-cache-dir", folder, "--prefix-cache-dir-mib", "64")
    with running_server(model_path, tmp_path / "log", *options) as server:
        canaries, failures, disconnects = Canaries(), [], [0]
        end = time.monotonic() + MINUTES * 60

        def client(seed: int) -> None:
            chance = random.Random(seed)
            while time.monotonic() < end:
                try:
                    if chance.random() < 0.25:
                        leave(server, chance.randrange(2**31))
                        disconnects[0] += 1
                    elif chance.random() < 0.1:
                        httpx.post(f"{server.http_url}/v1/completions", content=b"{", timeout=120)
                    else:
                        ask(server, canaries, chance.choice([4, 12, 60]))
                except Exception as error:
                    failures.append(repr(error))

        threads = [threading.Thread(target=client, args=(seed,)) for seed in range(CLIENTS)]
        for thread in threads:
            thread.start()
        memory = []
        while any(thread.is_alive() for thread in threads):
            memory.append(resident_mib(server))
            threads[0].join(MINUTES * 60 / SAMPLES)
            if not threads[0].is_alive():
                break
        for thread in threads:
            thread.join(300)
        wait_until_idle(server)
        assert not failures, failures[:3]
        canaries.assert_own()
        assert "Traceback" not in server.log.read_text()
        tokens = metric(server, "generation_tokens_total")
    settled, last = memory[len(memory) // 3 :], memory[-1]
    assert last - settled[0] < MAX_GROWTH_MIB, memory
    record(
        f"Soak of {MINUTES:g} minutes",
        canaries.checked + disconnects[0],
        canaries.checked + disconnects[0],
        0,
        f"{canaries.checked} answers ({tokens:.0f} tokens), {disconnects[0]} disconnects, no failure, "
        f"no foreign word; memory {memory[0]:.0f} MiB at first, {settled[0]:.0f} after a third, "
        f"{last:.0f} at the end",
    )
