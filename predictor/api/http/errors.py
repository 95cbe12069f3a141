"""The one place where an error becomes an answer; each protocol's form is in `error_forms` beside it."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from reprlib import Repr
from typing import TYPE_CHECKING, Any

import orjson
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from predictor.api.http.error_forms import ErrorForm, Problem, error_form
from predictor.errors import (
    InvalidRequest,
    ModelNotFound,
    PredictorError,
    PromptTooLong,
    QueueFull,
    RateLimited,
    RequestTooLarge,
    ThreadsUnsupported,
    Unauthenticated,
    Unavailable,
    UnknownEncoding,
)

if TYPE_CHECKING:
    from grpc_interceptor.exceptions import GrpcException

logger = logging.getLogger(__name__)

# pydantic puts the names of types that it tried into the place of an error.
_NOT_A_FIELD = re.compile(r"body|InferenceRequest|(str|int|float|bool|bytes|list|dict|function)(\W.*|-.*)?")
MAX_MESSAGE = 1000
GENERIC_MESSAGE = "internal error; the server's log has the details"


# Longer than what is shown of a value, so that one that was cut isn't.
_values = Repr()
_values.maxstring = _values.maxother = _values.maxlong = 80


@dataclass(frozen=True, slots=True)
class _Form:
    """How a class of errors looks: HTTP status, OpenAI's type and code, the class in `grpc_interceptor`."""

    error: type[Exception] | tuple[type[Exception], ...]
    status: HTTPStatus
    kind: str
    code: str | None
    grpc: str


# The first entry that fits wins, so subclasses come before their bases. gRPC itself answers
# RESOURCE_EXHAUSTED to a message over its size limit, so RequestTooLarge does the same.
_FORMS = (
    _Form(
        PromptTooLong,
        HTTPStatus.BAD_REQUEST,
        "invalid_request_error",
        "context_length_exceeded",
        "InvalidArgument",
    ),
    _Form(
        ThreadsUnsupported,
        HTTPStatus.BAD_REQUEST,
        "invalid_request_error",
        "thread_unsupported_request",
        "InvalidArgument",
    ),
    _Form(InvalidRequest, HTTPStatus.BAD_REQUEST, "invalid_request_error", None, "InvalidArgument"),
    _Form(ModelNotFound, HTTPStatus.NOT_FOUND, "invalid_request_error", "model_not_found", "NotFound"),
    _Form(
        Unauthenticated,
        HTTPStatus.UNAUTHORIZED,
        "authentication_error",
        "invalid_api_key",
        "Unauthenticated",
    ),
    _Form(
        RequestTooLarge,
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        "invalid_request_error",
        "request_too_large",
        "ResourceExhausted",
    ),
    _Form(
        UnknownEncoding,
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        "invalid_request_error",
        "unsupported_encoding",
        "InvalidArgument",
    ),
    _Form(
        (QueueFull, RateLimited),
        HTTPStatus.TOO_MANY_REQUESTS,
        "rate_limit_error",
        "rate_limit_exceeded",
        "ResourceExhausted",
    ),
    _Form(
        Unavailable, HTTPStatus.SERVICE_UNAVAILABLE, "service_unavailable_error", "unavailable", "Unavailable"
    ),
    _Form(Exception, HTTPStatus.INTERNAL_SERVER_ERROR, "server_error", None, "Internal"),
)


def _form(error: Exception) -> _Form:
    return next(form for form in _FORMS if isinstance(error, form.error))


def _message(error: Exception) -> str:
    # Only errors raised on purpose have a text that was written for users.
    return _short(error.message) if isinstance(error, PredictorError) else GENERIC_MESSAGE


def _short(text: str) -> str:
    """What a client sent comes back in messages, and gRPC carries none of more than some kilobytes."""
    return text if len(text) <= MAX_MESSAGE else f"{text[: MAX_MESSAGE - 3]}..."


def http_status(error: Exception) -> int:
    """The HTTP status that says what `error` says."""
    return _form(error).status.value


def problem_of(error: Exception) -> Problem:
    """What a client is told of `error`: nothing of one that wasn't raised on purpose."""
    form = _form(error)
    param = _short(error.param) if isinstance(error, PredictorError) and error.param else None
    return Problem(form.status.value, _message(error), form.kind, form.code, param)


def last_event(form: ErrorForm, request_id: str | None = None) -> Callable[[Exception], bytes]:
    """Turns an error in the middle of a stream into its last event; see `ending_with_error`."""
    return lambda error: form.last_event(problem_of(error), request_id or "", 0)


def grpc_error(error: Exception) -> GrpcException:
    """The exception that makes kserve's gRPC server answer with the status code of `error`."""
    from grpc_interceptor import exceptions

    answer: type[GrpcException] = getattr(exceptions, _form(error).grpc)
    return answer(details=_message(error))


def error_response(error: Exception, scope: Scope) -> Response:
    """The answer to `error`, with `Retry-After` where a later try may succeed.

    Args:
        error: what happened.
        scope: ASGI's, of the request that met it.
    """
    return _response(problem_of(error), scope, _headers(error))


def _response(problem: Problem, scope: Scope, headers: Mapping[str, str] | None) -> Response:
    request_id = Headers(scope=scope).get("x-request-id", "")
    body = orjson.dumps(error_form(scope["path"]).body(problem, request_id), default=str)
    return Response(body, problem.status, dict(headers or {}), media_type="application/json")


def _headers(error: Exception) -> dict[str, str]:
    if isinstance(error, Unavailable):
        return {"retry-after": str(error.retry_after)}
    return {"www-authenticate": "Bearer"} if isinstance(error, Unauthenticated) else {}


def describe_validation(errors: Sequence[Any]) -> InvalidRequest:
    """Pydantic's findings as one error in plain words.

    Args:
        errors: pydantic's `errors()`, the places as seen from the request.
    """
    error = errors[0]
    place = tuple(part for part in error["loc"] if not _NOT_A_FIELD.fullmatch(str(part)))
    kind = error["type"]
    if kind == "json_invalid":
        reason = error.get("ctx", {}).get("error", "syntax error")
        return InvalidRequest(f"the body is not valid JSON: {reason} at character {place[0] if place else 0}")
    field = _field_name(place)
    if not field:
        if kind == "missing":
            return InvalidRequest("the body is empty; send a JSON object")
        return InvalidRequest("the body must be a JSON object, sent with Content-Type: application/json")
    if kind == "missing":
        return InvalidRequest(f"{field} is missing", param=field)
    return InvalidRequest(f"{field}: {_reason(error)}", param=field)


def install_error_handlers(app: FastAPI) -> None:
    """Make `app` answer every error in the form of the route that met it.

    kserve registers its own handler for `Exception`, which shows the class and text of any error; unexpected
    errors are therefore answered in a middleware, before they reach it.
    """
    app.add_exception_handler(PredictorError, _on_predictor_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_middleware(UnexpectedErrors)


class UnexpectedErrors:
    """ASGI middleware that answers 500 to an unexpected error, whose traceback goes to the log only."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the app; see the class."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def watch(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, watch)
        except Exception as error:
            if isinstance(error, PredictorError) and not started:
                await error_response(error, scope)(scope, receive, send)
                return
            logger.exception("%s %s failed", scope["method"], scope["path"])
            if started:
                raise  # Nothing true can be said any more; the server closes the connection.
            await error_response(error, scope)(scope, receive, send)


async def _on_predictor_error(request: Request, error: Exception) -> Response:
    if http_status(error) == HTTPStatus.INTERNAL_SERVER_ERROR:
        logger.error("%s %s failed: %s", request.method, request.url.path, error)
    return error_response(error, request.scope)


async def _on_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return error_response(describe_validation(error.errors()), request.scope)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.url.path
    message = str(error.detail)
    if error.status_code == HTTPStatus.NOT_FOUND:
        message = f"there is no route {path}"
    elif error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        message = f"{request.method} is not allowed on {path}"
    elif message == "There was an error parsing the body":
        message = "the body is not valid JSON: it is not UTF-8 text, or is nested too deeply"
    return _response(Problem(error.status_code, message), request.scope, error.headers)


def _field_name(place: Sequence[int | str]) -> str:
    """`("messages", 0, "role")` as `messages[0].role`."""
    name = ""
    for part in place:
        name += f"[{part}]" if isinstance(part, int) else f".{part}" if name else part
    return name


def _reason(error: Mapping[str, Any]) -> str:
    message: str = error["msg"]
    message = message.removeprefix("Value error, ").replace("Input should be", "must be")
    message = message.replace("valid dictionary", "JSON object").replace("valid list", "list")
    shown = _values.repr(error.get("input"))
    return f"{message}, not {shown}" if "must be" in message and len(shown) <= 60 else message
