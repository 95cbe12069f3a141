"""What goes into the engine and what comes out of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from predictor.engine.constraint import TokenConstraint
from predictor.errors import InvalidRequest

MAX_LOGPROBS = 20
MAX_STOP_STRINGS = 256
MAX_STOP_CHARACTERS = 16 * 1024
"""Of all stop strings together: each is looked for at every token."""
MAX_BREAKERS, MAX_BREAKER_BYTES = 8, 40
"""Each is looked for in the whole vocabulary, and llama.cpp cuts longer ones."""
MAX_BIAS = 1e6  # an infinite one would undo the minus infinity of a forbidden token
SEEDS = 2**32 - 1
"""llama.cpp's seeds are 0 to this, excluded, which it reads as "pick one for me"; larger ones are wrapped."""
GREEDY_TEMPERATURE = 1e-5
"""Below it the most likely token is taken; logits divided by much less overflow."""


class FinishReason(StrEnum):
    """Why a sequence ended. The values are the OpenAI names, plus `cancelled`."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are chosen and when generation ends. Defaults are llama.cpp's own.

    Attributes:
        max_tokens: most tokens to generate; None means until the context is full. 0 only reads the prompt.
        temperature: 0, or less than 0.00001, picks the most likely token every time.
        top_k: keep the k most likely tokens; 0 keeps all.
        top_p: keep the smallest set of tokens whose probabilities add up to this.
        min_p: drop tokens less likely than this fraction of the most likely one.
        typical_p: locally typical sampling (Meister et al., 2022); 1 turns it off.
        top_n_sigma: keep tokens within so many standard deviations of the highest logit; 0 or less turns it
            off.
        xtc_probability: how often all but the last of the tokens above `xtc_threshold` are dropped.
        xtc_threshold: a probability.
        dynatemp_range: the temperature follows the entropy, by up to this above and below; 0 turns it off.
        dynatemp_exponent: how the entropy becomes a temperature.
        dry_multiplier: strength of the DRY penalty on tokens that go on a repetition; 0 turns it off.
        dry_base: how fast that penalty grows with the repetition's length.
        dry_allowed_length: of repetitions that cost nothing.
        dry_penalty_last_n: how many tokens it looks back; -1 is all.
        dry_sequence_breakers: texts over which no repetition goes.
        mirostat: 1 or 2 samples by that version (Basu et al., 2021), in place of all other samplers but the
            temperature; 0 turns it off.
        mirostat_tau: the surprise per token that it aims at.
        mirostat_eta: how fast it learns.
        repeat_penalty: divides the logits of recent tokens; 1 turns it off.
        repeat_last_n: how many tokens are recent, for all three penalties.
        presence_penalty: subtracted once from the logits of tokens seen.
        frequency_penalty: subtracted per occurrence from the logits of tokens seen.
        seed: makes sampling repeatable; None picks a random one. Any 64 bits.
        logit_bias: token id to a value added to its logit.
        stop: strings that end generation and are not part of the text.
        ignore_eos: keep going past the model's end-of-generation tokens.
        top_logprobs: None returns no log-probabilities; k returns the chosen token's and those of
            the k most likely tokens.

    Raises:
        InvalidRequest: a value is out of range; `param` names it.
    """

    max_tokens: int | None = None
    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    typical_p: float = 1.0
    top_n_sigma: float = -1.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    dynatemp_range: float = 0.0
    dynatemp_exponent: float = 1.0
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = 64
    dry_sequence_breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    mirostat: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    top_logprobs: int | None = None

    def __post_init__(self) -> None:
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and low <= value <= high):
                raise InvalidRequest(f"{name} must be between {low} and {high}, not {value}", param=name)
        if len(self.stop) > MAX_STOP_STRINGS or sum(map(len, self.stop)) > MAX_STOP_CHARACTERS:
            raise InvalidRequest(
                f"at most {MAX_STOP_STRINGS} stop strings, of {MAX_STOP_CHARACTERS} characters together",
                param="stop",
            )
        breakers = self.dry_sequence_breakers
        if len(breakers) > MAX_BREAKERS or any(
            not 0 < len(b.encode()) <= MAX_BREAKER_BYTES for b in breakers
        ):
            raise InvalidRequest(
                f"at most {MAX_BREAKERS} dry_sequence_breakers, none empty, each of at most "
                f"{MAX_BREAKER_BYTES} bytes",
                param="dry_sequence_breakers",
            )
        if any(not text for text in self.stop):
            raise InvalidRequest("a stop string must not be empty", param="stop")
        if not all(abs(bias) <= MAX_BIAS for bias in self.logit_bias.values()):
            raise InvalidRequest(
                f"logit_bias values must be between {-MAX_BIAS:g} and {MAX_BIAS:g}", param="logit_bias"
            )

    @property
    def is_greedy(self) -> bool:
        """True when the most likely token is taken every time."""
        return self.temperature < GREEDY_TEMPERATURE

    @property
    def native_seed(self) -> int:
        """The seed as llama.cpp takes it: `SEEDS` picks a random one."""
        return SEEDS if self.seed is None else self.seed % SEEDS


_RANGES: tuple[tuple[str, float, float], ...] = (
    ("max_tokens", 0, 2**63 - 1),
    ("temperature", 0, 100),
    ("top_k", 0, 2**31 - 1),
    ("top_p", 0, 1),
    ("min_p", 0, 1),
    ("typical_p", 0, 1),
    ("top_n_sigma", -1, 100),
    ("xtc_probability", 0, 1),
    ("xtc_threshold", 0, 1),
    ("dynatemp_range", 0, 100),
    ("dynatemp_exponent", 0, 100),
    ("dry_multiplier", 0, 100),
    ("dry_base", 1, 100),
    ("dry_allowed_length", 0, 2**16),
    ("dry_penalty_last_n", -1, 2**16),
    ("mirostat", 0, 2),
    ("mirostat_tau", 0, 100),
    ("mirostat_eta", 0, 100),
    ("repeat_last_n", 0, 2**16),
    ("repeat_penalty", 0.01, 100),
    ("presence_penalty", -2, 2),
    ("frequency_penalty", -2, 2),
    ("seed", -(2**63), 2**63 - 1),
    ("top_logprobs", 0, MAX_LOGPROBS),
)


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt to complete.

    Attributes:
        id: shown in logs; need not be unique.
        prompt: token ids, at least one.
        params: how to sample and when to stop.
        constraint: what the tokens are held to; of this request alone. It decides where the text may end, so
            `ignore_eos` has no effect beside it.
        adapter: name of the engine's adapter to use, None for the model alone.
        marks: text of the control tokens that show in the answer, by id; all others show as nothing.
        wants_progress: whether its stream tells how far the prompt has been read.
        scores_prompt: whether log-probabilities are wanted of the prompt's tokens too, and of the token that
            ends the answer; needs `top_logprobs`. The prompt is then computed whole, whatever is cached.
    """

    id: str
    prompt: tuple[int, ...]
    params: SamplingParams
    constraint: TokenConstraint | None = None
    adapter: str | None = None
    marks: Mapping[int, bytes] = field(default_factory=dict)
    wants_progress: bool = False
    scores_prompt: bool = False

    def __post_init__(self) -> None:
        if self.constraint is not None and self.params.ignore_eos:
            object.__setattr__(self, "params", replace(self.params, ignore_eos=False))


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token's log-probability under the model, before any sampling option changed it.

    Attributes:
        token: token id.
        piece: the token's bytes; may hold a part of a UTF-8 character.
        logprob: natural logarithm of its probability.
        top: the most likely tokens at this place, most likely first, without their own `top`.
    """

    token: int
    piece: bytes
    logprob: float
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class PromptProgress:
    """How far a prompt has been read.

    Attributes:
        total: tokens of the prompt.
        cached: those that were in the cache.
        processed: those that are in the cache now, of both kinds.
        seconds: since its reading began.
    """

    total: int
    cached: int
    processed: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Delta:
    """What one sequence gained since its last delta.

    Attributes:
        text: complete characters, safe to show: never a part of a stop string.
        logprobs: one entry per token sampled, when asked for.
        completion_tokens: tokens sampled so far, the end-of-generation token left out.
        finish_reason: set on the last delta only.
        cached_tokens: prompt tokens that were taken from the prefix cache.
        stop_string: on the last delta, the stop string that ended it, if one did.
        progress: how far the prompt has been read, on deltas of their own before the first token, where the
            request wants to know.
        prompt_logprobs: one entry for each next token of the prompt, from its second on, when asked for.
        vector: on the last delta, what an engine that pools made of the prompt, float32.
    """

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()
    completion_tokens: int = 0
    finish_reason: FinishReason | None = None
    cached_tokens: int = 0
    stop_string: str | None = None
    progress: PromptProgress | None = None
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    vector: npt.NDArray[np.float32] | None = field(default=None, compare=False)
