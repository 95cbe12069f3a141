"""Simulates rollouts and prints the table of docs/rollouts.md; the model is in tests/rollout/queueing.py.

python scripts/rollout_samples.py [RUNS] [PART OF A NAME ...]
"""

from __future__ import annotations

import statistics
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "rollout"))

from scenarios import BAD_ONES, GOOD_ONES
from simulated_rollout import rollouts

from rollout.result import Outcome

SEED = 2026


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    wanted = sys.argv[2:] or [""]
    print("| canary and service | runs | rolled back | promoted | undecided | canary's requests, by step |")
    print("| --- | --- | --- | --- | --- | --- |")
    for scenario in GOOD_ONES + BAD_ONES:
        if not any(part in scenario.name for part in wanted):
            continue
        ended = list(rollouts(scenario.service, scenario.canary, runs, SEED))
        outcomes = Counter(one.outcome for one in ended)
        shares = [
            f"{outcomes[o] / runs:.1%}" for o in (Outcome.ROLLED_BACK, Outcome.PROMOTED, Outcome.PAUSED)
        ]
        steps = []
        for percent in scenario.service.steps:
            counts = [one.requests[percent] for one in ended if percent in one.requests]
            if len(counts) >= runs / 4:
                steps.append(f"{percent}%: {statistics.median(counts):,.0f}")
        print(f"| {scenario.name} | {runs} | {' | '.join(shares)} | {', '.join(steps)} |", flush=True)


if __name__ == "__main__":
    main()
