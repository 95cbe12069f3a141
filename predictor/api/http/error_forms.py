"""How each protocol shows an error: in an answer of its own, and as the last event of a stream.

Which protocol a request speaks is told by its path alone, since middleware refuses requests before any route
is known, and Ray's gateway has no routes.

Sources: https://platform.openai.com/docs/guides/error-codes, https://docs.anthropic.com/en/api/errors
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from predictor.api.http.events import sse

JsonObject = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Problem:
    """An error in words that no protocol owns.

    Attributes:
        status: of HTTP.
        message: what is wrong and what to do about it.
        kind, code: OpenAI's type and code.
        param: the request field at fault, where there is one.
    """

    status: int
    message: str
    kind: str = "invalid_request_error"
    code: str | None = None
    param: str | None = None


@dataclass(frozen=True, slots=True)
class ErrorForm:
    """How one protocol shows errors.

    Attributes:
        name: of the protocol.
        body: the answer's JSON object, for a problem and the request's id.
        last_event: the event that ends a stream, for a problem, the request's id and how many events there
            were before.
    """

    name: str
    body: Callable[[Problem, str], JsonObject]
    last_event: Callable[[Problem, str, int], bytes]


def _openai_body(problem: Problem, request_id: str = "") -> JsonObject:
    fields = {
        "message": problem.message,
        "type": problem.kind,
        "param": problem.param,
        "code": problem.code,
    }
    return {"error": fields}


def _kserve_body(problem: Problem, request_id: str = "") -> JsonObject:
    return {"error": problem.message}


_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}

_ANTHROPIC_CODES = ("thread_unsupported_request",)
"""By these, clients know what to do instead; other codes are OpenAI's."""


def _anthropic_body(problem: Problem, request_id: str) -> JsonObject:
    other = "invalid_request_error" if problem.status < 500 else "api_error"
    error: dict[str, Any] = {
        "type": _ANTHROPIC_TYPES.get(problem.status, other),
        "message": problem.message,
    }
    if problem.code in _ANTHROPIC_CODES:
        error["details"] = {"error_code": problem.code}
    return {"type": "error", "error": error, "request_id": request_id or None}


def _responses_event(problem: Problem, request_id: str, before: int) -> bytes:
    event = {
        "type": "error",
        "code": problem.code or problem.kind,
        "message": problem.message,
        "param": problem.param,
        "sequence_number": before,
    }
    return sse(event, "error")


OPENAI = ErrorForm("OpenAI", _openai_body, lambda problem, request_id, before: sse(_openai_body(problem)))
RESPONSES = ErrorForm("OpenAI Responses", _openai_body, _responses_event)
ANTHROPIC = ErrorForm(
    "Anthropic",
    _anthropic_body,
    lambda problem, request_id, before: sse(_anthropic_body(problem, request_id), "error"),
)
KSERVE = ErrorForm("KServe", _kserve_body, lambda problem, request_id, before: sse(_kserve_body(problem)))

# The first that fits wins. KServe's V1 shares a prefix with OpenAI.
_BY_PATH = (
    (re.compile(r"(/openai)?/v1/messages(/.*)?"), ANTHROPIC),
    (re.compile(r"(/openai)?/v1/responses(/.*)?"), RESPONSES),
    (re.compile(r"/v1/models/.*:(predict|explain)"), KSERVE),
    (re.compile(r"/openai/.*|/v1/.*"), OPENAI),
    # llama-server's and vLLM's own routes, whose errors are OpenAI's there too.
    (re.compile(r"/health|/tokenize|/detokenize|/apply-template|/infill"), OPENAI),
)


def error_form(path: str) -> ErrorForm:
    """The form of errors for requests to a path, KServe's where no other protocol claims it."""
    return next((form for pattern, form in _BY_PATH if pattern.fullmatch(path)), KSERVE)
