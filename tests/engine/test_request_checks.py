"""What a request's sizes tell before its text is tokenized."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictor.engine.config import EngineConfig
from predictor.engine.llama import Model
from predictor.engine.request_checks import RequestChecks
from predictor.errors import InvalidRequest, PromptTooLong

PARTS = st.sampled_from(["<|im_start|>", " ", "\n", "the", "ä", "\U0001f600", "x" * 40, " " * 40, "\t"])


@pytest.fixture(scope="module")
def model(model_path: Path) -> Model:
    return Model(model_path)


@pytest.fixture(scope="module")
def checks(model: Model, model_path: Path) -> RequestChecks:
    config = EngineConfig(model_path, 1, 1, context_tokens=1000, max_sequences=4, max_queue=6)
    return RequestChecks(config, model, max_sequence_tokens=1000, whole_prompts=False)


@given(st.lists(PARTS | st.text(max_size=20), max_size=30).map("".join))
def test_no_token_stands_for_more_than_the_longest(model: Model, text: str) -> None:
    tokens = model.tokenize(text, add_special=False, parse_special=True)
    assert model.longest_token is not None
    assert len(tokens) * model.longest_token >= len(text)


def test_only_what_cannot_fit_is_refused(checks: RequestChecks, model: Model) -> None:
    most = 999 * (model.longest_token or 0)
    for characters in (0, 1000, most):
        checks.check_length(characters, "prompt")
    with pytest.raises(PromptTooLong, match="which are at least 1000 tokens, but the context holds 1000"):
        checks.check_length(most + 1, "prompt")
    with pytest.raises(PromptTooLong) as error:
        checks.check_length(10**9, "messages")
    assert error.value.param == "messages"


def test_places(checks: RequestChecks) -> None:
    checks.check_count(10)
    with pytest.raises(InvalidRequest, match="11 prompts in one call, but at most 10 fit"):
        checks.check_count(11)
