"""The choice of tokens, in llama.cpp's native sampler chains."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from typing import Any

import llama_cpp.llama_cpp as lib
import numpy as np

from predictor.engine.llama.backend import Owner
from predictor.engine.llama.context import Context
from predictor.engine.llama.model import Model
from predictor.engine.request import SamplingParams
from predictor.errors import InvalidRequest

# The most that "all" is for the DRY penalty.
DRY_ALL_TOKENS = 2**16
# So many likely tokens does the first mirostat judge a text by, as in its paper.
MIROSTAT_TOKENS = 100


class Sampler(Owner):
    """Chooses tokens for one sequence with a native sampler chain, in the order llama.cpp's tools use.

    Args:
        model: whose tokens are chosen.
        params: checked sampling parameters.
        prompt: the penalties take its last tokens into account.

    Raises:
        InvalidRequest: `logit_bias` names a token that isn't in the vocabulary.
    """

    def __init__(self, model: Model, params: SamplingParams, prompt: Sequence[int]) -> None:
        self._biases = _biases(model, params)
        penalised = params.repeat_last_n > 0 and (
            params.repeat_penalty != 1 or params.presence_penalty != 0 or params.frequency_penalty != 0
        )
        looks_back = _dry_window(params, len(prompt))
        # Without penalties a greedy choice is one argmax, four times cheaper than a chain of one.
        self._is_argmax = params.is_greedy and not penalised and not looks_back
        self._chain: Any = None
        if self._is_argmax:
            self._bias_ids = np.fromiter(self._biases, np.int64, len(self._biases))
            self._bias_values = np.fromiter(self._biases.values(), np.float32, len(self._biases))
            return
        self._chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        for part in _chain_parts(model, params, self._biases, penalised, looks_back):
            lib.llama_sampler_chain_add(self._chain, part)
        seen = max(params.repeat_last_n if penalised else 0, looks_back)
        for token in prompt[-seen:] if seen else ():
            lib.llama_sampler_accept(self._chain, token)

    def sample(self, context: Context, index: int) -> int:
        """Choose and accept a token from the logits behind a batch index."""
        if not self._is_argmax:
            return int(lib.llama_sampler_sample(self._chain, context.handle, index))
        logits = context.logits(index)
        if len(self._bias_ids):
            logits[self._bias_ids] += self._bias_values
        return int(logits.argmax())

    def close(self) -> None:
        if self._chain:
            lib.llama_sampler_free(self._chain)
            self._chain = None


def _biases(model: Model, params: SamplingParams) -> dict[int, float]:
    for token in params.logit_bias:
        if not 0 <= token < model.n_vocab:
            raise InvalidRequest(
                f"logit_bias names token {token}, but the vocabulary ends at {model.n_vocab - 1}",
                param="logit_bias",
            )
    biases = dict(params.logit_bias)
    if params.ignore_eos:
        biases.update(dict.fromkeys(model.end_tokens, -float("inf")))
    return biases


def _chain_parts(
    model: Model, params: SamplingParams, biases: dict[int, float], penalised: bool, dry_window: int
) -> Iterable[Any]:
    if biases:
        entries = (lib.llama_logit_bias * len(biases))(*biases.items())
        yield lib.llama_sampler_init_logit_bias(model.n_vocab, len(biases), entries)
    if penalised:
        yield lib.llama_sampler_init_penalties(
            model.n_vocab,
            params.repeat_last_n,
            params.repeat_penalty,
            params.frequency_penalty,
            params.presence_penalty,
        )
    if params.mirostat and not params.is_greedy:
        yield lib.llama_sampler_init_temp(params.temperature)
        yield _mirostat(model, params)
        return
    if dry_window:
        yield _dry(model, params, dry_window)
    if params.is_greedy:
        yield lib.llama_sampler_init_greedy()
        return
    if params.top_n_sigma > 0:
        yield lib.llama_sampler_init_top_n_sigma(params.top_n_sigma)
    if params.top_k > 0:
        yield lib.llama_sampler_init_top_k(params.top_k)
    if params.typical_p < 1:
        yield lib.llama_sampler_init_typical(params.typical_p, 1)
    if params.top_p < 1:
        yield lib.llama_sampler_init_top_p(params.top_p, 1)
    if params.min_p > 0:
        yield lib.llama_sampler_init_min_p(params.min_p, 1)
    if params.xtc_probability > 0:
        yield lib.llama_sampler_init_xtc(params.xtc_probability, params.xtc_threshold, 1, params.native_seed)
    if params.dynatemp_range > 0:
        yield lib.llama_sampler_init_temp_ext(
            params.temperature, params.dynatemp_range, params.dynatemp_exponent
        )
    else:
        yield lib.llama_sampler_init_temp(params.temperature)
    yield lib.llama_sampler_init_dist(params.native_seed)


def _dry_window(params: SamplingParams, prompt_tokens: int) -> int:
    """How many tokens the DRY penalty looks back; 0 where it is off."""
    if not params.dry_multiplier:
        return 0
    if params.dry_penalty_last_n >= 0:
        return params.dry_penalty_last_n
    most = DRY_ALL_TOKENS if params.max_tokens is None else prompt_tokens + params.max_tokens
    return min(DRY_ALL_TOKENS, most)


def _dry(model: Model, params: SamplingParams, window: int) -> Any:
    breakers = [text.encode() for text in params.dry_sequence_breakers]
    return lib.llama_sampler_init_dry(
        model.vocab_handle,
        params.dry_multiplier,
        params.dry_base,
        params.dry_allowed_length,
        window,
        (ctypes.c_char_p * len(breakers))(*breakers),
        len(breakers),
    )


def _mirostat(model: Model, params: SamplingParams) -> Any:
    seed, tau, eta = params.native_seed, params.mirostat_tau, params.mirostat_eta
    if params.mirostat == 1:
        return lib.llama_sampler_init_mirostat(model.n_vocab, seed, tau, eta, MIROSTAT_TOKENS)
    return lib.llama_sampler_init_mirostat_v2(seed, tau, eta)
