"""Compiles grammars in a process of its own, to see whether they can be compiled at all.

llguidance limits most of the work that a grammar asks for, but some still take minutes, gigabytes, or more
stack than there is, which would end the server. Run as a script, it stays warm: each line of standard input
is a JSON string with a grammar, each line of standard output a `Verdict` as JSON. A grammar that takes too
much ends the process instead.
"""

from __future__ import annotations

import json
import math
import os
import resource
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llguidance import LLParserLimits, LLTokenizer

CPU_SECONDS = 2
"""For each grammar."""
MEMORY_BYTES = 1024**3
# A quarter of what the server's threads have, so that what passes here has room there.
STACK_BYTES = 2 * 1024**2
_RENEWED_BYTES = MEMORY_BYTES // 2
"""A process that has grown so large ends after its answer, so that no grammar pays for those before it."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a grammar can be compiled.

    Attributes:
        problem: why not; "" where it can.
        text: the grammar without what can't be enforced.
        not_enforced: JSON pointers to the keywords that were taken out.
    """

    problem: str
    text: str
    not_enforced: tuple[str, ...] = ()


def limits() -> LLParserLimits:
    """llguidance's own limits, tighter than its defaults."""
    from llguidance import LLParserLimits

    return LLParserLimits(
        initial_lexer_fuel=500_000,
        step_lexer_fuel=100_000,
        step_max_items=20_000,
        max_lexer_states=50_000,
        max_grammar_size=100_000,
        # Walking all tokens for a large expression at once would be out of any limit's reach.
        precompute_large_lexemes=False,
        verbose_errors=False,
    )


class _Bytes:
    """The smallest tokenizer: a token for each byte, and one for the end."""

    eos_token_id = 256
    bos_token_id = None
    tokens = (*(bytes([byte]) for byte in range(256)), b"\xff<end>")
    special_token_ids = (256,)

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


def tokenizer_of_bytes() -> LLTokenizer:
    """What grammars are tried with; the vocabulary makes no difference to whether they compile."""
    from llguidance import LLTokenizer, TokenizerWrapper

    return LLTokenizer(TokenizerWrapper(_Bytes()))


def problem_of(grammar: str, tokenizer: LLTokenizer) -> str:
    """Why a grammar can't be compiled; "" where it can."""
    from llguidance import LLMatcher

    matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=limits())
    if not matcher.is_error():
        matcher.compute_bitmask()
    return matcher.get_error()


def verdict_on(grammar: str, tokenizer: LLTokenizer) -> Verdict:
    """Try a grammar; where it fails, try it without those keywords of its schemas that can't be enforced."""
    from predictor.structured.leniency import without_unenforceable

    problem = problem_of(grammar, tokenizer)
    if not problem:
        return Verdict("", grammar)
    text, dropped, kept = without_unenforceable(grammar, lambda part: problem_of(part, tokenizer))
    if dropped and not kept:
        problem = problem_of(text, tokenizer)
    if not problem:
        return Verdict("", text, tuple(dropped))
    places = f" ({', '.join(kept[:3])})" if kept else ""
    return Verdict(_reason(problem) + places, grammar)


def _reason(problem: str) -> str:
    """The first line, which says what; of a regular expression the line that says why."""
    first, *others = problem.splitlines()
    why = next((line.removeprefix("error: ") for line in others if line.startswith("error: ")), None)
    return f"{first.removesuffix(':')}: {why}" if why and first.endswith("regex parse error:") else first


def _serve() -> None:
    tokenizer = tokenizer_of_bytes()
    for line in sys.stdin.buffer:
        _allow_cpu_seconds(CPU_SECONDS)
        verdict = _on_a_small_stack(json.loads(line), tokenizer)
        if verdict is None:
            sys.exit(1)
        sys.stdout.write(json.dumps(asdict(verdict)) + "\n")
        sys.stdout.flush()
        if _virtual_bytes() > _RENEWED_BYTES:
            return


def _on_a_small_stack(grammar: str, tokenizer: LLTokenizer) -> Verdict | None:
    """The verdict, found on a new thread; None where it failed."""
    verdicts: list[Verdict] = []
    thread = threading.Thread(target=lambda: verdicts.append(verdict_on(grammar, tokenizer)))
    thread.start()
    thread.join()
    return verdicts[0] if verdicts else None


def _allow_cpu_seconds(seconds: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    soft = math.ceil(time.process_time()) + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


def _virtual_bytes() -> int:
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def main() -> None:
    """Check grammars until standard input ends."""
    # Run as a file, so that a package of the same name elsewhere on the path can't come first.
    sys.path.insert(0, str(Path(__file__).parents[2]))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    threading.stack_size(STACK_BYTES)
    _serve()


if __name__ == "__main__":
    main()
