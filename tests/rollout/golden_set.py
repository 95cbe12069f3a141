"""A golden set that the demo model mostly answers rightly."""

from __future__ import annotations

import json
from pathlib import Path

ENTRIES = (
    {
        "id": "france",
        "prompt": "What is the capital of France? Answer in one sentence.",
        "must_match": "Paris",
    },
    {"id": "add", "prompt": "What is 2 plus 2?", "must_match": "4"},
    {"id": "water", "prompt": "At which temperature does water boil?", "must_match": "100|212"},
    {"id": "week", "prompt": "Name the days of the week.", "must_match": "Monday"},
    {"id": "story", "prompt": "Tell me one sentence about a cat."},
    {"id": "python", "prompt": "Which keyword defines a function in Python?"},
)


def write_golden_set(path: Path) -> Path:
    """Write it as JSONL, with short answers."""
    path.write_text("".join(json.dumps({**entry, "max_tokens": 24}) + "\n" for entry in ENTRIES))
    return path
