"""Simulates rollouts and prints the table of docs/rollouts.md; the model is in tests/rollout/queueing.py.

python scripts/rollout_samples.py RUNS FILE [PART OF A NAME ...]

FILE keeps what is simulated, some rollouts a line, so that the same command goes on where it was stopped.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "rollout"))

from queueing import chunks
from scenarios import BAD_ONES, GOOD_ONES, Scenario
from simulated_rollout import AT_ONCE, some_rollouts

from rollout.result import Outcome

SEED = 2026

Line = dict[str, Any]


def main() -> None:
    runs, file, wanted = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:] or [""]
    print("| canary and service | runs | rolled back | promoted | undecided | canary's requests, by step |")
    print("| --- | --- | --- | --- | --- | --- |")
    for scenario in GOOD_ONES + BAD_ONES:
        if any(part in scenario.name for part in wanted):
            print(_row(scenario, _ended(scenario, runs, file)), flush=True)


def _ended(scenario: Scenario, runs: int, file: Path) -> list[Line]:
    """How each rollout ended: those that the file has, and the others, which are added to it."""
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    known = {(line["name"], line["part"], len(line["ended"])): line["ended"] for line in lines}
    found: list[Line] = []
    for part, size in enumerate(chunks(runs, AT_ONCE)):
        ended = known.get((scenario.name, part, size))
        if ended is None:
            simulated = some_rollouts(scenario.service, scenario.canary, size, (SEED, part))
            ended = [
                {"outcome": one.outcome, "requests": list(one.requests.items()), "why": one.why}
                for one in simulated
            ]
            with file.open("a") as kept:
                kept.write(json.dumps({"name": scenario.name, "part": part, "ended": ended}) + "\n")
        found += ended
    return found


def _row(scenario: Scenario, ended: list[Line]) -> str:
    runs, outcomes = len(ended), Counter(one["outcome"] for one in ended)
    shares = [f"{outcomes[o] / runs:.1%}" for o in (Outcome.ROLLED_BACK, Outcome.PROMOTED, Outcome.PAUSED)]
    steps = []
    for percent in scenario.service.steps:
        counts = [count for one in ended for at, count in one["requests"] if at == percent]
        if len(counts) >= runs / 4:
            steps.append(f"{percent}%: {statistics.median(counts):,.0f}")
    return f"| {scenario.name} | {runs} | {' | '.join(shares)} | {', '.join(steps)} |"


if __name__ == "__main__":
    main()
