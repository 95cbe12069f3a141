"""Compiles a grammar in a process of its own, to see whether it can be compiled at all.

llguidance limits most of the work that a grammar asks for, but some still take minutes, gigabytes, or more
stack than there is, which would end the server. Run as a script; the grammar comes on standard input and the
problem, if there is one, goes to standard output.
"""

from __future__ import annotations

import resource
import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llguidance import LLParserLimits

CPU_SECONDS = 2
MEMORY_BYTES = 1024**3
# A quarter of what the server's threads have, so that what passes here has room there.
STACK_BYTES = 2 * 1024**2


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


def _check(grammar: str) -> None:
    from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

    tokenizer = LLTokenizer(TokenizerWrapper(_Bytes()))
    matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=limits())
    if not matcher.is_error():
        matcher.compute_bitmask()
    sys.stdout.write(matcher.get_error())


def main() -> None:
    """Check the grammar on standard input."""
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    grammar = sys.stdin.read()
    threading.stack_size(STACK_BYTES)
    thread = threading.Thread(target=_check, args=(grammar,))
    thread.start()
    thread.join()


if __name__ == "__main__":
    main()
