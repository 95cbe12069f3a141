"""What a server says at its start about the format of its weights."""

from __future__ import annotations

import logging
from pathlib import Path

from predictor.engine.llama.cpu import cpu_features
from predictor.formats.repacking import FormatReport

logger = logging.getLogger(__name__)

# Tokens per second of one model in each format, prefill and decode: docs/formats.md says which and where.
MEASURED = {
    "F16": (956, 125),
    "Q8_0": (1154, 193),
    "Q6_K": (1628, 228),
    "Q5_K_M": (1778, 213),
    "Q5_1": (407, 167),
    "Q5_0": (917, 197),
    "Q4_K_M": (1455, 321),
    "Q4_K_S": (1491, 329),
    "Q4_1": (475, 203),
    "Q4_0": (1464, 335),
    "IQ4_NL": (1474, 339),
    "IQ4_XS": (2098, 254),
    "Q3_K_M": (1585, 281),
    "Q2_K": (1119, 331),
}

_WORTH_NAMING = ("AVX2", "AVX512", "AMX_INT8", "NEON", "DOTPROD", "MATMUL_INT8", "SVE", "RISCV_V")


def log_format(report: FormatReport, model: Path) -> None:
    """Log one line where another format would be faster on this CPU."""
    if report.is_fast:
        return
    features = ", ".join(name for name in cpu_features() if name in _WORTH_NAMING) or "no vector instructions"
    # The file's own format may have them, and its tensors have fallen back to others all the same: rows that
    # aren't a multiple of 256 long can't be in a K format.
    slow = (
        f"{1 - report.repacked_share:.0%} of the weights of this {report.quantisation} file are in "
        f"{' and '.join(report.slow_types[:2])}, for which llama.cpp has no repacked kernels on this CPU "
        f"({features})"
    )
    if report.faster is None:
        logger.info("%s; no format of about the same size has them", slow)
        return
    logger.warning(
        "%s; %s has them and about the same size%s: `kserve-llamacpp models convert %s` makes one and "
        "measures both",
        slow,
        report.faster,
        _gain(report.quantisation, report.faster),
        model,
    )


def _gain(present: str, faster: str) -> str:
    if present not in MEASURED or faster not in MEASURED:
        return ""
    prefill, decode = (new / old for new, old in zip(MEASURED[faster], MEASURED[present], strict=True))
    return (
        f", and another model in it was measured to read prompts {prefill:.1f} times and generate "
        f"{decode:.1f} times as fast"
    )
