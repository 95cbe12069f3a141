"""Greedy texts that llama.cpp computed in different batches."""

from __future__ import annotations

from predictor.generation.text import Completion

# Natural logarithm: a choice that rounding can tip is between tokens about as likely as each other.
NEAR = 1.0


def agree(one: Completion, other: Completion) -> bool:
    """Whether two greedy answers are equal, or part where both tokens were about equally likely.

    llama.cpp adds in another order in larger batches and chunks (docs/guarantees.md). Both need
    `top_logprobs`.
    """
    for entry, chosen in zip(one.logprobs, other.logprobs, strict=False):
        if entry.token != chosen.token:
            likelihoods = {top.token: top.logprob for top in entry.top}
            near = likelihoods.get(chosen.token, -float("inf"))
            return likelihoods[entry.token] - near < NEAR
    return one.text == other.text
