"""A request while the engine works on it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextvars import Context, copy_context
from dataclasses import dataclass, field

from predictor.engine.request import Request

# Output that admission counts on when a request may generate more: enough that most answers never meet a
# full cache, small enough that a generous max_tokens doesn't leave the machine idle.
EXPECTED_OUTPUT_TOKENS = 256


@dataclass(slots=True, eq=False, weakref_slot=True)
class Sequence:
    """Tokens that are known and how many of them are in the KV cache: the two only ever catch up.

    There are no prefill and decode phases: a sequence with one token missing decodes, one with more prefills.

    Attributes:
        request: what was asked for.
        max_tokens: most tokens to generate, cut to what the context can hold; 0 where the prompt is all.
        tokens: prompt, then generated.
        num_computed: how many of the first tokens have their cells.
        num_scored: tokens of the prompt whose log-probability is known, and the first, which has none.
        sequence_id: llama.cpp's id while running, -1 otherwise.
        cached_tokens: prompt tokens taken over from the prefix cache at the first admission.
        admitted_size: number of tokens at the last admission.
        stops: numbers of tokens behind which the state is kept for others; a step computes up to the next.
        passed_by: prompt tokens computed for sequences admitted later while this one's prompt had to wait.
        draft_hit_rate: how likely the next guess of speculative decoding is right; None before the first.
        arrived, admitted, first_token, last_token: seconds of the monotonic clock; 0 means not yet.
        context: the caller's context variables, for logs and traces.
    """

    request: Request
    max_tokens: int
    tokens: list[int] = field(default_factory=list)
    num_computed: int = 0
    num_scored: int = 1
    sequence_id: int = -1
    cached_tokens: int = 0
    admitted_size: int = 0
    stops: list[int] = field(default_factory=list)
    passed_by: int = 0
    preemptions: int = 0
    draft_hit_rate: float | None = None
    arrived: float = field(default_factory=time.monotonic)
    admitted: float = 0.0
    first_token: float = 0.0
    last_token: float = 0.0
    context: Context = field(default_factory=copy_context)

    def __post_init__(self) -> None:
        self.tokens = list(self.request.prompt)

    @property
    def adapter(self) -> str | None:
        """Name of the adapter it is computed with."""
        return self.request.adapter

    @property
    def num_missing(self) -> int:
        """Tokens without cells; at least one while running."""
        return len(self.tokens) - self.num_computed

    @property
    def num_reachable(self) -> int:
        """Tokens that a step can compute at most."""
        end = min((stop for stop in self.stops if stop > self.num_computed), default=len(self.tokens))
        return end - self.num_computed

    @property
    def num_generated(self) -> int:
        """Tokens sampled so far."""
        return len(self.tokens) - len(self.request.prompt)

    @property
    def is_decoding(self) -> bool:
        """Whether only the newest generated token is missing."""
        return self.num_missing == 1 and self.num_generated > 0

    @property
    def is_scoring(self) -> bool:
        """Whether logits are wanted behind every token of the prompt, and some are missing."""
        return self.request.scores_prompt and self.num_scored < len(self.request.prompt)

    @property
    def reusable(self) -> list[int]:
        """The tokens of which all but the last may have cells that were computed for others."""
        return self.tokens[: self.num_scored] if self.is_scoring else self.tokens

    @property
    def expected_size(self) -> int:
        """Tokens the sequence is expected to reach, for admission."""
        start = self.admitted_size or len(self.tokens)
        most = len(self.request.prompt) + self.max_tokens
        return max(len(self.tokens), min(most, start + EXPECTED_OUTPUT_TOKENS))


def unanswered_waits(sequences: Iterable[Sequence]) -> tuple[float, ...]:
    """Seconds that those have waited that have no token yet."""
    now = time.monotonic()
    return tuple(now - sequence.arrived for sequence in sequences if not sequence.first_token)
