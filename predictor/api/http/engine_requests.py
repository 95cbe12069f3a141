"""From what a protocol asks to the engine's requests."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace

from predictor.api.http.middleware import current_request_id
from predictor.api.http.sizes import MAX_BIASES
from predictor.engine.request import SEEDS, Request, SamplingParams
from predictor.errors import InvalidRequest
from predictor.structured.compiler import MakeConstraint


def engine_requests(
    prompts: Sequence[tuple[int, ...]],
    params: SamplingParams,
    choices: int,
    make_constraint: MakeConstraint | None,
    marks: Mapping[int, bytes] | None = None,
    *,
    wants_progress: bool = False,
    scores_prompt: bool = False,
) -> list[Request]:
    """One engine request per choice, prompt by prompt. Choices of one prompt get different seeds.

    Raises:
        InvalidRequest: there are too many biases for so many choices.
    """
    answers = len(prompts) * choices
    if len(params.logit_bias) * answers > MAX_BIASES:
        raise InvalidRequest(
            f"logit_bias has {len(params.logit_bias)} entries for each of {answers} answers, and at "
            f"most {MAX_BIASES} fit together: send fewer, or split the call",
            param="logit_bias",
        )
    label = current_request_id() or uuid.uuid4().hex
    return [
        Request(
            f"{label}-{i}-{k}" if answers > 1 else label,
            prompt,
            _for_choice(params, k),
            make_constraint() if make_constraint else None,
            marks=marks or {},
            wants_progress=wants_progress,
            scores_prompt=scores_prompt,
        )
        for i, prompt in enumerate(prompts)
        for k in range(choices)
    ]


def _for_choice(params: SamplingParams, choice: int) -> SamplingParams:
    if params.seed is None or choice == 0:
        return params
    return replace(params, seed=(params.seed + choice) % SEEDS)
