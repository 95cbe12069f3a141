"""The choice of tokens, in llama.cpp's native sampler chains."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import llama_cpp.llama_cpp as lib
import numpy as np

from predictor.engine.llama.backend import Owner
from predictor.engine.llama.context import Context
from predictor.engine.llama.model import Model
from predictor.engine.request import SamplingParams
from predictor.errors import InvalidRequest


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
        # Without penalties a greedy choice is one argmax, four times cheaper than a chain of one.
        self._is_argmax = params.is_greedy and not penalised
        self._chain: Any = None
        if self._is_argmax:
            self._bias_ids = np.fromiter(self._biases, np.int64, len(self._biases))
            self._bias_values = np.fromiter(self._biases.values(), np.float32, len(self._biases))
            return
        self._chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        for part in _chain_parts(model, params, self._biases, penalised):
            lib.llama_sampler_chain_add(self._chain, part)
        for token in prompt[-params.repeat_last_n :] if penalised else ():
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
    model: Model, params: SamplingParams, biases: dict[int, float], penalised: bool
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
