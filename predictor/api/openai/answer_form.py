"""What an answer must look like, in the fields of all servers that have one for it.

`response_format` is OpenAI's; llama.cpp's server has `grammar` and `json_schema` beside it, vLLM
`structured_outputs` and formerly `guided_*`, SGLang `json_schema`, `regex` and `ebnf`, and TGI types of its
own in `response_format`.
Source of OpenAI's: https://platform.openai.com/docs/guides/structured-outputs
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from predictor.api.chat.wishes import AnswerForm
from predictor.api.http.fields import is_unicode
from predictor.api.http.sampling import SamplingFields
from predictor.errors import InvalidRequest
from predictor.structured.grammar import (
    MAX_CHARACTERS,
    choice_grammar,
    gbnf_grammar,
    json_schema_grammar,
    regex_grammar,
)

ANY_OBJECT = {"type": "object"}


class AnswerFormFields(SamplingFields):
    """The fields; each is read by `read_answer_form`."""

    response_format: Any = None
    grammar: Any = None
    json_schema: Any = None
    structured_outputs: Any = None
    guided_json: Any = None
    guided_json_object: Any = None
    guided_choice: Any = None
    guided_regex: Any = None
    guided_grammar: Any = None
    regex: Any = None
    ebnf: Any = None


def read_answer_form(body: AnswerFormFields) -> AnswerForm | None:
    """The form that a request asks for, None where answers are free.

    Raises:
        InvalidRequest: a field is malformed, or two ask for different forms.
    """
    found: AnswerForm | None = None
    for name, read in _READERS.items():
        value = getattr(body, name)
        form = None if value is None else read(value, name)
        if form is None:
            continue
        if found is not None and found.grammar.text != form.grammar.text:
            raise _invalid(f"and {found.grammar.param} can't be used together", name)
        found = found or form
    return found


def read_format(value: Any, param: str) -> AnswerForm | None:
    """The form that a `response_format` asks for, None for free text.

    Raises:
        InvalidRequest: it is malformed.
    """
    kind = value.get("type") if isinstance(value, Mapping) else None
    if kind == "text":
        return None
    if kind == "json_object":
        # llama.cpp's server takes a schema here.
        return _schema(_first(value.get("schema"), ANY_OBJECT), param)
    if kind == "json_schema":
        return _named_schema(value, param)
    if kind == "json" and "value" in value:
        return _schema(value["value"], param)
    if kind == "regex" and "value" in value:
        return _regex(value["value"], param)
    raise _invalid('must have the type "text", "json_object" or "json_schema"', param)


def _named_schema(value: Mapping[str, Any], param: str) -> AnswerForm:
    """OpenAI's `json_schema`; TGI has `value` in its place, and llama.cpp's server the schema itself."""
    wrapper = _first(value.get("json_schema"), value.get("value"), {"schema": value.get("schema")})
    if not isinstance(wrapper, Mapping) or not isinstance(wrapper.get("schema"), Mapping):
        raise _invalid('of type json_schema needs {"json_schema": {"name": ..., "schema": {...}}}', param)
    strict = wrapper.get("strict")
    if strict not in (None, True, False):
        raise _invalid("has a json_schema.strict that is neither true nor false", param)
    return _schema(wrapper["schema"], param, strict=strict is True)


def _schema(value: Any, param: str, *, strict: bool = False) -> AnswerForm:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise _invalid("must be a JSON schema, as an object or as its text", param) from None
    return AnswerForm(json_schema_grammar(value or ANY_OBJECT, param, strict=strict), is_json=True)


def _object(value: Any, param: str) -> AnswerForm | None:
    if value not in (True, False):
        raise _invalid("must be true or false", param)
    return _schema(ANY_OBJECT, param) if value else None


def _choice(value: Any, param: str) -> AnswerForm:
    if not isinstance(value, list) or not value or not all(isinstance(text, str) for text in value):
        raise _invalid("must be a list of texts, and not empty", param)
    return AnswerForm(choice_grammar(value, param), is_json=False)


def _regex(value: Any, param: str) -> AnswerForm | None:
    return AnswerForm(regex_grammar(_text(value, param), param), is_json=False) if value != "" else None


def _gbnf(value: Any, param: str) -> AnswerForm | None:
    return AnswerForm(gbnf_grammar(_text(value, param), param), is_json=False) if value != "" else None


def _structured_outputs(value: Any, param: str) -> AnswerForm | None:
    if not isinstance(value, Mapping):
        raise _invalid("must be a JSON object", param)
    for option in ("disable_any_whitespace", "disable_additional_properties", "whitespace_pattern"):
        if value.get(option):
            raise _invalid(f"has {option}, which is not supported: leave it out", param)
    given = [name for name in (*_OUTPUTS, "structural_tag") if value.get(name) is not None]
    if len(given) > 1:
        raise _invalid(f"has both {given[0]} and {given[1]}, which can't be used together", param)
    if not given:
        return None
    if given[0] not in _OUTPUTS:
        raise _invalid(f"has {given[0]}, which is not supported: use {', '.join(_OUTPUTS)}", param)
    return _OUTPUTS[given[0]](value[given[0]], param)


_Reader = Callable[[Any, str], AnswerForm | None]

_OUTPUTS: Mapping[str, _Reader] = {
    "json": _schema,
    "json_object": _object,
    "choice": _choice,
    "regex": _regex,
    "grammar": _gbnf,
}

_READERS: Mapping[str, _Reader] = {
    "response_format": read_format,
    "grammar": _gbnf,
    "json_schema": _schema,
    "structured_outputs": _structured_outputs,
    "guided_json": _schema,
    "guided_json_object": _object,
    "guided_choice": _choice,
    "guided_regex": _regex,
    "guided_grammar": _gbnf,
    "regex": _regex,
    "ebnf": _gbnf,
}


def _text(value: Any, param: str) -> str:
    if not isinstance(value, str) or not is_unicode(value):
        raise _invalid("must be a string of valid Unicode text", param)
    if len(value) > MAX_CHARACTERS:  # before anybody looks into it
        raise _invalid(f"is longer than {MAX_CHARACTERS} characters", param)
    return value


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


def _invalid(message: str, param: str) -> InvalidRequest:
    return InvalidRequest(f"{param} {message}", param=param)
