"""The question asked of a server that is stopped and started again: what it still knows."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from benchmarks.measure import Metric
from benchmarks.results import LLAMA_SERVER, Measurement
from benchmarks.servers import Server, Setup, running
from predictor.client import prompts
from predictor.client.load import LoadGenerator, completion
from predictor.client.records import RequestRecord

_PROMPT_TOKENS = 1000
_SETUP = Setup(sequences=16, context_tokens=32768)
_POINT = "1 prompt"


@dataclass(frozen=True, slots=True)
class WarmRestart:
    """Time to first token of a long prompt before and after a restart that keeps the prefix folder."""

    name: str = "warm-restart"
    title: str = "Restart with a warm cache folder"
    explanation: str = (
        f"A prompt of about {_PROMPT_TOKENS} tokens on a server that has never seen it and was started "
        "with an empty --prefix-cache-dir; then SIGTERM, the same command again, and the same prompt. "
        "llama-server keeps nothing between processes. The goal is at most 0.05 times the cold time."
    )
    metrics: Sequence[Metric] = (
        Metric("cold_first_token", "time to first token, cold, s", {}),
        Metric("warm_first_token", "time to first token after the restart, s", {}),
        Metric("warm_over_cold", "warm over cold", {}),
        Metric("cached_tokens", "prompt tokens reused after the restart", {}),
    )
    setup: Setup = _SETUP
    same_work: bool = False

    def measurement_count(self, servers: Sequence[Server], rounds: int) -> int:
        return len(self._ours(servers)) * rounds

    async def measure(self, servers: Sequence[Server], rounds: int) -> AsyncIterator[Measurement]:
        for round_ in range(rounds):
            for server in self._ours(servers):
                with tempfile.TemporaryDirectory(prefix="benchmark-prefixes-") as folder:
                    setup = Setup(
                        self.setup.sequences,
                        self.setup.context_tokens,
                        our_flags=("--prefix-cache-dir", folder),
                    )
                    cold = await self._first_token(server, setup, round_)
                    warm = await self._first_token(server, setup, round_)
                yield self._measurement(server.name, round_, cold, warm)

    async def _first_token(self, server: Server, setup: Setup, round_: int) -> RequestRecord:
        async with running(server, setup) as instance, LoadGenerator(instance.base_url) as generator:
            # The first request of a process meets a cold machine, whatever it asks.
            await generator.stream(completion(instance.model_name, prompts.text(20, "first"), 1))
            text = prompts.text(_PROMPT_TOKENS, f"restart {round_}")
            return (await generator.stream(completion(instance.model_name, text, 1))).record()

    def _measurement(self, server: str, round_: int, cold: RequestRecord, warm: RequestRecord) -> Measurement:
        metrics = {"cached_tokens": float(warm.cached_tokens)}
        first, again = cold.time_to_first_token, warm.time_to_first_token
        if first is not None and again is not None:
            metrics |= {
                "cold_first_token": first,
                "warm_first_token": again,
                "warm_over_cold": again / first,
            }
        return Measurement(
            self.name,
            _POINT,
            server,
            round_,
            metrics,
            seconds=(first or 0) + (again or 0),
            prompt_tokens=cold.prompt_tokens,
            errors=tuple(record.error for record in (cold, warm) if record.error),
            records=(cold, warm),
        )

    def _ours(self, servers: Sequence[Server]) -> list[Server]:
        return [server for server in servers if server.name != LLAMA_SERVER]
