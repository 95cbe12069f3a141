"""Sampling fields, the same for every protocol."""

from __future__ import annotations

from typing import Any

import pytest

from predictor.api.http.sampling import SamplingFields, parse_sampling
from predictor.engine.request import SamplingParams
from predictor.errors import InvalidRequest

EVERYTHING: dict[str, Any] = {
    "max_tokens": 5,
    "temperature": 0,
    "top_k": 1,
    "top_p": 0.5,
    "min_p": 0.1,
    "typical_p": 0.9,
    "top_n_sigma": 2,
    "xtc_probability": 0.5,
    "xtc_threshold": 0.2,
    "dynatemp_range": 0.1,
    "dynatemp_exponent": 2,
    "dry_multiplier": 0.8,
    "dry_base": 1.5,
    "dry_allowed_length": 3,
    "dry_penalty_last_n": -1,
    "dry_sequence_breakers": ["\n", "."],
    "mirostat": 2,
    "mirostat_tau": 4,
    "mirostat_eta": 0.2,
    "repeat_penalty": 1.1,
    "repeat_last_n": 32,
    "presence_penalty": -1,
    "frequency_penalty": 0.5,
    "seed": 7,
    "logit_bias": {"12": -100},
    "stop": "END",
    "ignore_eos": True,
}


def test_every_field_reaches_the_engine() -> None:
    others = {"logit_bias": {12: -100.0}, "stop": ("END",), "dry_sequence_breakers": ("\n", ".")}
    expected = SamplingParams(**{**EVERYTHING, **others})
    assert parse_sampling(EVERYTHING, "parameters") == expected
    assert SamplingFields.model_validate(EVERYTHING).to_params(None) == expected


def test_nulls_mean_defaults() -> None:
    assert parse_sampling(dict.fromkeys(EVERYTHING), "x", default_max_tokens=9) == SamplingParams(
        max_tokens=9
    )


def test_numbers_may_be_text_where_a_protocol_has_no_floats() -> None:
    values = {"temperature": "0.25", "max_tokens": "3", "logit_bias": '{"1": 2}', "stop": "5"}
    assert parse_sampling(values, "parameters") == SamplingParams(
        temperature=0.25, max_tokens=3, logit_bias={1: 2.0}, stop=("5",)
    )


def test_what_v2_clients_add_on_their_own_is_no_error() -> None:
    assert parse_sampling({"binary_data_output": True, "sequence_id": 0}, "parameters") == SamplingParams()


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("temperature", "hot", "temperature: must be a valid number, not 'hot'"),
        ("temperature", True, "temperature: must be a valid number, not True"),
        ("temperature", -1, "temperature must be between 0 and 100, not -1"),
        ("temperature", float("nan"), "temperature must be between"),
        ("max_tokens", -2, "max_tokens must be between 0 and"),
        ("max_tokens", 1.5, "max_tokens: must be a valid integer, not 1.5"),
        ("max_tokens", 10**400, "max_tokens: must be less than"),
        ("top_k", False, "top_k: must be a valid integer, not False"),
        ("seed", 2**63, "seed: must be less than"),
        ("stop", 3, "stop: must be a string or a list of strings"),
        ("stop", ["a", 3], "stop: must be a string or a list of strings"),
        ("stop", ["a"] * 300, "at most 256 strings"),
        ("stop", "a" * 20_000, "of 16384 characters together"),
        ("stop", "\ud800", "stop: must be valid Unicode text"),
        ("logit_bias", {"a": 1}, "logit_bias: must have token ids as its keys"),
        ("logit_bias", {"1": "x"}, "logit_bias"),
        ("logit_bias", "nonsense", "logit_bias: must be a JSON object"),
        ("dry_base", 0.5, "dry_base must be between 1 and 100"),
        ("dry_penalty_last_n", -2, "dry_penalty_last_n must be between -1"),
        ("dry_sequence_breakers", "a", "dry_sequence_breakers: must be a list of strings"),
        ("dry_sequence_breakers", ["a"] * 9, "dry_sequence_breakers: must have at most 8 strings"),
        ("dry_sequence_breakers", [""], "at most 8 dry_sequence_breakers, none empty"),
        ("mirostat", 3, "mirostat must be between 0 and 2"),
        ("ignore_eos", "yes", "ignore_eos"),
        ("max_new_tokens", 5, "has an unknown field 'max_new_tokens'; known: max_tokens"),
    ],
)
def test_errors_name_the_place_and_the_field(name: str, value: Any, expected: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_sampling({name: value}, "instances[2]")
    assert caught.value.message.startswith("instances[2]")
    assert expected in caught.value.message
    assert caught.value.param is not None
    assert caught.value.param.startswith(name)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ({"max_tokens": 8.0, "top_k": 3.0, "seed": 1e3}, {"max_tokens": 8, "top_k": 3, "seed": 1000}),
        ({"max_tokens": -1}, {"max_tokens": None}),
        ({"top_k": -1, "seed": -1}, {"top_k": 0, "seed": None}),
        ({"stop": ""}, {}),
        ({"stop": ["", "a"]}, {"stop": ("a",)}),
        ({"repetition_penalty": 1.2, "n_predict": "7"}, {"repeat_penalty": 1.2, "max_tokens": 7}),
    ],
)
def test_what_means_the_same_is_taken_by_every_protocol(
    written: dict[str, Any], meant: dict[str, Any]
) -> None:
    defaults = {"max_tokens": 9}
    assert parse_sampling(written, "parameters", default_max_tokens=9) == SamplingParams(**defaults | meant)


@pytest.mark.parametrize("temperature", [0, 1e-320, 1e-45, 1e-38, 9e-6])
def test_a_temperature_that_single_precision_cannot_divide_by_is_greedy(temperature: float) -> None:
    assert SamplingParams(temperature=temperature).is_greedy
    assert not SamplingParams(temperature=0.01).is_greedy
