"""The sampling fields of a request, the same in every protocol."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator

from predictor.api.http.errors import describe_validation
from predictor.api.http.fields import Integer, is_unicode
from predictor.api.http.foreign_fields import refuse_foreign
from predictor.api.http.sizes import check_biases, check_stop_strings
from predictor.engine.request import MAX_BIAS, MAX_BREAKERS, SamplingParams
from predictor.errors import InvalidRequest

PROTOCOL_PARAMETERS = frozenset(
    {
        "binary_data_output",
        "content_type",
        "headers",
        "priority",
        "sequence_end",
        "sequence_id",
        "sequence_start",
        "timeout",
    }
)
"""Parameters that V2 clients send on their own account and that do not concern sampling."""


def _stop_strings(value: Any) -> Any:
    strings = [value] if isinstance(value, str) else value
    if strings is None:
        return None
    if not isinstance(strings, list) or not all(isinstance(text, str) for text in strings):
        raise ValueError("must be a string or a list of strings")
    check_stop_strings(strings)
    if not all(is_unicode(text) for text in strings):
        raise ValueError("must be valid Unicode text")
    return [text for text in strings if text]


def _breakers(value: Any) -> Any:
    """Protocols with scalars carry a JSON array as text."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (json.JSONDecodeError, RecursionError):
            value = None
    if not isinstance(value, list) or not all(isinstance(text, str) and is_unicode(text) for text in value):
        raise ValueError("must be a list of strings")
    if len(value) > MAX_BREAKERS:
        raise ValueError(f"must have at most {MAX_BREAKERS} strings")
    return value


def _token_biases(value: Any) -> Any:
    """Token ids are text in JSON objects, and in protocols with scalars only the whole object is text.

    llama.cpp's server takes pairs as well, and false where a token is forbidden.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (json.JSONDecodeError, RecursionError):
            value = None
        if value is None:
            raise ValueError("must be a JSON object of token ids to numbers")
    if isinstance(value, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        pairs = value
    elif isinstance(value, Mapping):
        pairs = list(value.items())
    else:
        return value
    check_biases(value)
    try:
        return {int(token): -MAX_BIAS if bias is False else bias for token, bias in pairs}
    except (ValueError, TypeError):
        raise ValueError("must have token ids as its keys") from None


class SamplingFields(BaseModel):
    """Optional sampling fields. Base of every request that carries them.

    The names and meanings are those of `predictor.engine.request.SamplingParams`. Booleans and text do not
    pass for numbers. What changes no answer is never refused: null is as good as a missing field, and
    so are the values by which other servers know "no limit" and "pick one". Fields that are not known are
    ignored, since clients send many, but not those by which other servers would answer differently; see
    `predictor.api.http.foreign_fields`.

    Attributes:
        ALIASES: names that vLLM, SGLang, TGI and llama.cpp's server have for fields.
    """

    model_config = ConfigDict(strict=True, extra="allow")

    ALIASES: ClassVar[Mapping[str, str]] = {
        "repetition_penalty": "repeat_penalty",
        "n_predict": "max_tokens",
    }

    max_tokens: Integer | None = None
    temperature: float | None = None
    top_k: Integer | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    top_n_sigma: float | None = None
    xtc_probability: float | None = None
    xtc_threshold: float | None = None
    dynatemp_range: float | None = None
    dynatemp_exponent: float | None = None
    dry_multiplier: float | None = None
    dry_base: float | None = None
    dry_allowed_length: Integer | None = None
    dry_penalty_last_n: Integer | None = None
    dry_sequence_breakers: Annotated[list[str] | None, BeforeValidator(_breakers)] = None
    mirostat: Integer | None = None
    mirostat_tau: float | None = None
    mirostat_eta: float | None = None
    repeat_penalty: float | None = None
    repeat_last_n: Integer | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: Integer | None = None
    logit_bias: Annotated[dict[int, float] | None, BeforeValidator(_token_biases)] = None
    stop: Annotated[list[str] | None, BeforeValidator(_stop_strings)] = None
    ignore_eos: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _in_our_words(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        given = {name: value for name, value in values.items() if value is not None}
        for alias, name in cls.ALIASES.items():
            if alias in given and given.setdefault(name, given[alias]) != given.pop(alias):
                raise InvalidRequest(f"{alias} and {name} mean the same, but differ", param=alias)
        return given

    def to_params(self, default_max_tokens: int | None, *, top_logprobs: int | None = None) -> SamplingParams:
        """The engine's parameters.

        Args:
            default_max_tokens: used where the request has no `max_tokens`; None means until the context is
                full.
            top_logprobs: as in `SamplingParams`.

        Raises:
            InvalidRequest: a value is out of range, or a field would change the answer on another server and
                isn't supported here; `param` names it.
        """
        refuse_foreign(self.model_extra or {})
        given = {
            name: value for name in SamplingFields.model_fields if (value := getattr(self, name)) is not None
        }
        given.setdefault("max_tokens", default_max_tokens)
        given["stop"] = tuple(given.get("stop", ()))
        if "dry_sequence_breakers" in given:
            given["dry_sequence_breakers"] = tuple(given["dry_sequence_breakers"])
        return SamplingParams(**_plain(given), top_logprobs=top_logprobs)

    @classmethod
    def parse(cls, values: Mapping[str, Any], where: str) -> Self:
        """Read the fields from a dictionary, refusing names that are not known.

        A misspelt parameter of V1 or V2 would change the text without a word, so it is an error there.
        Numbers may come as text, because kserve's gRPC client carries no floating-point parameters.

        Args:
            values: names to values, as the protocol brings them.
            where: the object that holds them, for the error message, such as `instances[0]`.

        Raises:
            InvalidRequest: a name is unknown, or a value has the wrong type.
        """
        unknown = sorted(values.keys() - cls.model_fields.keys() - cls.ALIASES.keys() - PROTOCOL_PARAMETERS)
        if unknown:
            known = ", ".join(cls.model_fields)
            raise InvalidRequest(
                f"{where} has an unknown field {unknown[0]!r}; known: {known}", param=unknown[0]
            )
        try:
            return cls.model_validate({name: _number(name, value) for name, value in values.items()})
        except (ValidationError, InvalidRequest) as error:
            problem = error if isinstance(error, InvalidRequest) else describe_validation(error.errors())
            raise InvalidRequest(f"{where}: {problem.message}", param=problem.param) from None


def parse_sampling(
    values: Mapping[str, Any], where: str, *, default_max_tokens: int | None = None
) -> SamplingParams:
    """Sampling parameters from the plain dictionary of a V1 instance or of V2 parameters.

    Raises:
        InvalidRequest: a name is unknown, or a value has the wrong type or is out of range.
    """
    fields = SamplingFields.parse(values, where)
    try:
        return fields.to_params(default_max_tokens)
    except InvalidRequest as error:
        raise InvalidRequest(f"{where}: {error.message}", param=error.param) from None


def _plain(given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields without llama.cpp's and vLLM's -1, which is no limit, all tokens, or any seed."""
    meanings = {"max_tokens": None, "seed": None, "top_k": 0}
    return {
        name: meanings[name] if name in meanings and value == -1 else value for name, value in given.items()
    }


_TEXT_FIELDS = frozenset({"stop", "logit_bias", "dry_sequence_breakers"})


def _number(name: str, value: Any) -> Any:
    if not isinstance(value, str) or name in _TEXT_FIELDS:
        return value
    for number in (int, float):
        try:
            return number(value)
        except ValueError:
            continue
    return value
