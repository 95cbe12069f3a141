"""Model files that are cut, damaged or malicious: each is refused with a message, or loads; nothing hangs."""

from __future__ import annotations

import random
import shutil
import struct
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from calls import PATIENCE
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_gguf import TINY, Tensor, string, tiny_gguf

from predictor.errors import ModelLoadError
from predictor.models.gguf_split import read_parts

pytestmark = [pytest.mark.faults, pytest.mark.timeout(3 * PATIENCE)]

HYPOTHESIS_EXAMPLES = 1000
DAMAGED_MODELS = 60
GOOD = tiny_gguf()
HUGE = 2**64 - 1


def header(version: int = 3, tensors: int = 0, metadata: int = 0, rest: bytes = b"") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, metadata) + rest


def pair(kind: int, value: bytes, key: str = "general.architecture") -> bytes:
    return string(key) + struct.pack("<I", kind) + value


CRAFTED = {
    "nothing": b"",
    "only the magic": b"GGUF",
    "another magic": b"GGML" + GOOD[4:],
    "a version to come": header(version=2**32 - 1),
    "a count of all tensors there could be": header(tensors=HUGE),
    "a count of all pairs there could be": header(metadata=HUGE),
    "a string as long as memory": header(metadata=1, rest=pair(8, struct.pack("<Q", HUGE))),
    "a key as long as memory": header(metadata=1, rest=struct.pack("<Q", HUGE)),
    "an array of arrays of arrays": header(metadata=1, rest=pair(9, struct.pack("<IQ", 9, 1) * 5000)),
    "an array as long as memory": header(metadata=1, rest=pair(9, struct.pack("<IQ", 4, HUGE))),
    "an array whose size overflows": header(metadata=1, rest=pair(9, struct.pack("<IQ", 10, 2**61 + 1))),
    "an unknown type": header(metadata=1, rest=pair(99, b"\0" * 8)),
    "a number for a name": tiny_gguf({**TINY, "general.architecture": 7}),
    "no layers": tiny_gguf({**TINY, "llama.block_count": 0}),
    "layers without end": tiny_gguf({**TINY, "llama.block_count": 2**32 - 1}),
    "no heads": tiny_gguf({**TINY, "llama.attention.head_count": 0}),
    "alignment zero": tiny_gguf().replace(b"general.file_type", b"general.alignment"),
    "a tensor of negative size": tiny_gguf(tensors=(Tensor("a", (2**63, 2), 0, 8),)),
    "a tensor whose size overflows": tiny_gguf(tensors=(Tensor("a", (2**32, 2**32, 2), 0, 8),)),
    "the same tensor twice": tiny_gguf(tensors=(Tensor("a", (8,), 0, 32),) * 2),
    "tensors in each other's place": GOOD.replace(
        struct.pack("<2QIQ", 64, 64, 2, 2048), struct.pack("<2QIQ", 64, 64, 2, 0)
    ),
    "a tensor behind the end": GOOD.replace(
        struct.pack("<2QIQ", 64, 64, 2, 2048), struct.pack("<2QIQ", 64, 64, 2, 2**40)
    ),
}


def outcome(data: bytes) -> str:
    """What the header's reader makes of a file; anything but a refusal by message fails the test."""
    with tempfile.NamedTemporaryFile(suffix=".gguf") as file:
        file.write(data)
        file.flush()
        try:
            read_parts(Path(file.name))
        except ModelLoadError as error:
            return "refused" if error.message else "refused without a word"
    return "read"


def test_crafted_headers(record: Any) -> None:
    outcomes = {name: outcome(data) for name, data in CRAFTED.items()}
    counts = Counter(outcomes.values())
    assert outcome(GOOD) == "read"
    assert counts["refused"] > len(CRAFTED) // 2, outcomes
    record("Malicious GGUF headers", len(CRAFTED), len(CRAFTED), 0, _told(counts))


def test_mutated_headers(record: Any) -> None:
    counts: Counter[str] = Counter()
    edits = st.lists(
        st.tuples(
            st.integers(0, len(GOOD) - 1),
            st.integers(0, 9),
            st.binary(max_size=9) | st.sampled_from([struct.pack("<Q", HUGE), struct.pack("<Q", 2**63)]),
        ),
        min_size=1,
        max_size=6,
    )

    @settings(max_examples=HYPOTHESIS_EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
    @given(edits, st.integers(0, len(GOOD)))
    def check(edits: list[tuple[int, int, bytes]], length: int) -> None:
        data = bytearray(GOOD)
        for place, removed, added in edits:
            data[place : place + removed] = added
        counts[outcome(bytes(data[:length] if length % 3 == 0 else data))] += 1

    check()
    total = sum(counts.values())
    record("GGUF headers mutated by hypothesis", total, total, 0, _told(counts))


# Each file is loaded in a process of its own: llama.cpp ends its process on some of them.
LOAD = """
import sys
from pathlib import Path
from predictor.engine.llama import Model
from predictor.errors import PredictorError
from predictor.models.gguf_split import read_parts
try:
    path = Path(sys.argv[1])
    read_parts(path)
    model = Model(path, gpu_layers=0, use_mmap=True, use_mlock=False)
    model.tokenize("Hello", add_special=True, parse_special=True)
    print("loaded")
except PredictorError as error:
    print("refused")
"""


def test_llama_cpp_on_damaged_models(model_path: Path, tmp_path: Path, record: Any) -> None:
    """The demo model with bytes of its header changed."""
    damaged = tmp_path / "damaged.gguf"
    shutil.copyfile(model_path, damaged)
    good = model_path.read_bytes()[: 3 * 2**20]
    counts: Counter[str] = Counter()
    for seed in range(DAMAGED_MODELS):
        chance = random.Random(seed)
        size = chance.choice([200, 2000, len(good)])
        places = [chance.randrange(4, size) for _ in range(chance.randrange(1, 4))]
        with damaged.open("r+b") as file:
            for place in places:
                file.seek(place)
                file.write(bytes([chance.randrange(256)]))
        result = subprocess.run(
            [sys.executable, "-c", LOAD, str(damaged)],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert result.returncode <= 0, result.stderr[-800:]
        counts[result.stdout.strip() if result.returncode == 0 else f"signal {-result.returncode}"] += 1
        with damaged.open("r+b") as file:
            for place in places:
                file.seek(place)
                file.write(good[place : place + 1])
    crashed = sum(count for name, count in counts.items() if name.startswith("signal"))
    record(
        "Damaged models given to llama.cpp",
        DAMAGED_MODELS,
        DAMAGED_MODELS - crashed,
        crashed,
        f"{_told(counts)}; lost are starts that llama.cpp ended by a signal instead of a message",
    )


def _told(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
