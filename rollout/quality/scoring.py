"""What can be said of an answer, and of two answers to one prompt."""

from __future__ import annotations

import json
import re
import unicodedata
from dataclasses import dataclass
from difflib import SequenceMatcher

import jsonschema

from rollout.quality.answers import Answer
from rollout.quality.golden import GoldenPrompt

# English only; what an assistant begins with when it declines.
_REFUSAL = re.compile(
    r"^\W*(?:(?:i'?m|i am) (?:very |really )?sorry\b|sorry\b|i apologi[sz]e\b|unfortunately,? i\b"
    r"|i (?:can(?:no|')t|won't|will not)\b|(?:i'?m|i am) (?:unable|not able) to|as an ai\b)",
    re.IGNORECASE,
)
_FENCE = re.compile(r"^```(?:json)?\s*\n(.*?)\n?```$", re.DOTALL)


def normalised(text: str) -> str:
    """Without differences of case, white space, Unicode form and punctuation at the ends."""
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return folded.strip(".,;:!?\"'`* ")


def is_refusal(text: str) -> bool:
    """Whether an answer begins like a refusal."""
    return _REFUSAL.match(text.replace("\u2019", "'")) is not None


def is_valid_json(prompt: GoldenPrompt, text: str) -> bool:
    """Whether an answer is JSON, alone or in a code fence, and keeps the prompt's schema."""
    stripped = text.strip()
    fenced = _FENCE.match(stripped)
    try:
        value = json.loads(fenced[1] if fenced else stripped)
        if prompt.schema is not None:
            jsonschema.validate(value, prompt.schema)
    except (ValueError, RecursionError, jsonschema.ValidationError):
        return False
    return True


def is_right(prompt: GoldenPrompt, answer: Answer) -> bool:
    """Whether an answer passes all checks of its prompt."""
    return (
        answer.error is None
        and (prompt.expected is None or normalised(answer.text) == normalised(prompt.expected))
        and (prompt.must_match is None or prompt.must_match.search(answer.text) is not None)
        and (not prompt.is_json or is_valid_json(prompt, answer.text))
    )


@dataclass(frozen=True, slots=True)
class Compared:
    """One prompt and both revisions' answers to it.

    Attributes:
        logprob_drop: how much lower, in nats per token, the stable model's mean log-probability of the
            canary's answer is than that of its own; 0 for equal answers, None where it isn't known.
    """

    prompt: GoldenPrompt
    stable: Answer
    canary: Answer
    logprob_drop: float | None = None

    @property
    def exact(self) -> bool:
        """Whether the answers are the same to the letter."""
        return self.stable.error is None and self.stable.text == self.canary.text

    @property
    def same(self) -> bool:
        """Whether they are the same after normalisation."""
        return (
            self.stable.error is None
            and self.canary.error is None
            and normalised(self.stable.text) == normalised(self.canary.text)
        )

    @property
    def similarity(self) -> float:
        """Share of words in common and in order, 0 to 1 (Ratcliff and Obershelp, by difflib)."""
        return SequenceMatcher(None, self.stable.text.split(), self.canary.text.split(), False).ratio()

    @property
    def is_lost(self) -> bool:
        """Whether the stable revision answers rightly and the canary doesn't."""
        stable, canary = (is_right(self.prompt, answer) for answer in (self.stable, self.canary))
        return stable and not canary and (self.prompt.is_checked or self.canary.error is not None)

    @property
    def change(self) -> tuple[bool, float, float]:
        """How much the answer changed, for sorting: lost ones first."""
        return self.is_lost, self.logprob_drop or 0.0, 1 - self.similarity
