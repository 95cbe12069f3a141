"""Prompts of a wanted length, the same in every run, that share no prefix by chance."""

from __future__ import annotations

import random

# Common words, nearly all of them one token in the vocabularies of English models.
_SUBJECTS = "farmer teacher river city doctor child king writer student engineer sailor mother bird train"
_VERBS = "found built carried watched described followed lost painted studied moved changed reached held"
_OBJECTS = "house letter garden machine road story picture market bridge island table window forest game"
_ADJECTIVES = "old small bright quiet large strange new simple dark green warm long heavy famous early red"
_NUMBER_TOKENS = 7


def text(tokens: int, seed: str) -> str:
    """Plain sentences of about `tokens` tokens; each seed's text starts with a number of its own."""
    randomness = random.Random(seed)  # noqa: S311
    words = [f"{randomness.randrange(10**6):06d}:"]
    while len(words) + _NUMBER_TOKENS <= tokens:
        words += _sentence(randomness)
    return " ".join(words[: tokens - _NUMBER_TOKENS + 1])


def _sentence(randomness: random.Random) -> list[str]:
    subject, verb, object_ = (randomness.choice(group.split()) for group in (_SUBJECTS, _VERBS, _OBJECTS))
    first, second = randomness.choices(_ADJECTIVES.split(), k=2)
    return [first, subject, verb, "the", second, object_, "and", "then"]
