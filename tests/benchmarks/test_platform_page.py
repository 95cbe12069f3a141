"""The evidence for the advice comes from the run, whatever it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import platform_page
from benchmarks.platform_page import BEGIN, END
from benchmarks.platform_scenarios import BY_LOAD, BY_PREFIX, CLOSED, PREFIX
from benchmarks.platform_servers import BARE, KSERVE, RAY
from benchmarks.results import Measurement, Run

ADVICE = Path(__file__).resolve().parents[2] / "docs" / "kserve-vs-ray.md"


def run_of(*measurements: Measurement) -> Run:
    machine = {"CPU": "a CPU", "Cores": "2"}
    return Run("2026-01-02 03:04 UTC", "python -m benchmarks.platforms", machine, {}, {}, measurements)


def closed(server: str, tokens_per_second: float) -> Measurement:
    return Measurement(CLOSED.name, "8 clients", server, 0, {"tokens_per_second": tokens_per_second})


def prefix(server: str, total: float, p95: float) -> Measurement:
    metrics = {"total_seconds": total, "first_token_p95": p95, "cached_share": 0.5}
    return Measurement(PREFIX.name, "2 replicas", server, 0, metrics)


def test_throughput_is_told_as_shares() -> None:
    text = platform_page.evidence(run_of(closed(BARE, 200), closed(KSERVE, 150), closed(RAY, 75)))
    assert "KServe gave 75% of the bare engine's tokens per second with 8 clients." in text
    assert "Ray Serve gave 38% of the bare engine's tokens per second with 8 clients." in text
    assert "Ray Serve gave 50% of KServe's tokens per second with 8 clients." in text
    assert "| Tokens/s, 8 clients | 200 | 150 | 75 |" in text


@pytest.mark.parametrize(
    ("total", "p95", "faster", "slower"),
    [
        (
            14.1,
            8.9,
            "time until all are answered, 14.1 s against 22.8 s",
            "first token, p95, 8.90 s against 6.46",
        ),
        (30.0, 5.0, "time to first token, p95, 5 s against 6.46 s", "all are answered, 30 s against 22.8 s"),
    ],
)
def test_what_routing_by_prefix_costs_is_told_too(total: float, p95: float, faster: str, slower: str) -> None:
    text = platform_page.evidence(run_of(prefix(BY_LOAD, 22.8, 6.46), prefix(BY_PREFIX, total, p95)))
    ahead, behind = text.split("Routing by prefix was faster: ")[1].split("It was slower: ")
    assert faster in ahead
    assert slower in behind


def test_only_the_evidence_of_the_page_is_replaced() -> None:
    run = run_of(closed(KSERVE, 150))
    page = platform_page.with_evidence(f"Advice.\n\n{BEGIN}\nold\n{END}\n\nMore.\n", run)
    assert page.startswith(f"Advice.\n\n{BEGIN}\n")
    assert page.endswith(f"{END}\n\nMore.\n")
    assert "old" not in page
    assert platform_page.with_evidence(page, run) == page
    with pytest.raises(ValueError, match="to write between"):
        platform_page.with_evidence("Advice.", run)


def test_the_page_has_a_place_for_it() -> None:
    assert platform_page.with_evidence(ADVICE.read_text(), run_of(closed(RAY, 1)))
