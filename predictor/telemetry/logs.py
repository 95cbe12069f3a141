"""Log lines as text for people or as JSON for collectors, all on standard error."""

from __future__ import annotations

import atexit
import json
import logging
import logging.config
import re
import warnings
from collections.abc import Callable, Mapping
from logging.handlers import QueueHandler, QueueListener
from queue import SimpleQueue
from typing import Any

from predictor.settings import Settings

# Errors of the client that kserve logs as its own, with a traceback; the answer says it all.
# By name, since kserve isn't imported yet.
# gRPC logs bytes that are no message as its own DecodeError.
_CLIENT_ERRORS = {"DecodeError", "InvalidInput", "ModelNotFound", "ModelNotReady", "ServerNotReady"}
_PLAIN = re.compile(r"[!-~]+")


def configure_logging(settings: Settings) -> None:
    """Set up every logger of the process, kserve's and uvicorn's included."""
    warnings.filterwarnings("ignore", "ORJSONResponse is deprecated")  # kserve's choice
    level = settings.log_level.upper()
    quiet = "INFO" if settings.log_level == "debug" else "WARNING"
    formatter = (
        "predictor.telemetry.logs.JsonFormatter"
        if settings.log_format == "json"
        else "predictor.telemetry.logs.TextFormatter"
    )
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "filters": {"client_errors": {"()": "predictor.telemetry.logs.ClientErrorFilter"}},
            "formatters": {
                "line": {"()": formatter, "fmt": "%(asctime)s %(levelname)-7s %(name)s: %(message)s"}
            },
            "handlers": {
                "stderr": {
                    "class": "logging.StreamHandler",
                    "formatter": "line",
                    "filters": ["client_errors"],
                }
            },
            "root": {"level": level, "handlers": ["stderr"]},
            "loggers": {
                # A handler of its own keeps kserve from configuring logging again.
                "kserve": {"level": quiet, "handlers": ["stderr"], "propagate": False},
                "uvicorn": {"level": quiet},
                "uvicorn.access": {"level": quiet},
                "httpx": {"level": "WARNING"},
                "predictor.llama": {"level": "DEBUG" if settings.log_llama else level},
            },
        }
    )
    _decouple(logging.getLogger("predictor.requests"))


def _decouple(logger: logging.Logger) -> None:
    """Let another thread write a logger's lines, so that a slow reader of them can't hold up its callers."""
    queue: SimpleQueue[logging.LogRecord] = SimpleQueue()
    listener = QueueListener(queue, *logging.getLogger().handlers)
    logger.handlers = [QueueHandler(queue)]
    logger.propagate = False
    listener.start()
    atexit.register(listener.stop)


def add_request_fields(**current: Callable[[], str | None]) -> None:
    """From now on, lines that are logged while a request is handled show what is known of it.

    Args:
        current: by name of the field, what gives its value for the request being handled, None outside of
            one.
    """
    for name in (None, "predictor.requests"):
        for handler in logging.getLogger(name).handlers:
            handler.addFilter(RequestFields(current))


class RequestFields(logging.Filter):
    """Adds fields of the request being handled to a record, where it doesn't have them itself.

    Args:
        current: see `add_request_fields`.
    """

    def __init__(self, current: Mapping[str, Callable[[], str | None]]) -> None:
        super().__init__()
        self._current = current

    def filter(self, record: logging.LogRecord) -> bool:
        """True, always."""
        fields = {name: value for name, get in self._current.items() if (value := get()) is not None}
        record.fields = fields | _fields(record)
        return True


class ClientErrorFilter(logging.Filter):
    """Drops the errors that clients cause."""

    def filter(self, record: logging.LogRecord) -> bool:
        """False for such an error."""
        error = record.exc_info[0] if record.exc_info else None
        return error is None or _CLIENT_ERRORS.isdisjoint(base.__name__ for base in error.__mro__)


class TextFormatter(logging.Formatter):
    """A line of text; the fields of the record follow its message as `name=value`.

    A text with anything but visible ASCII in it is quoted as in JSON, so that nobody's text makes lines.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """The line without the traceback."""
        return " ".join(
            [
                super().formatMessage(record),
                *(f"{name}={_quoted(value)}" for name, value in _fields(record).items()),
            ]
        )


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, logger, message, and the fields of the record."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        line: dict[str, Any] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def _quoted(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, str) and not _PLAIN.fullmatch(value) else value


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """What was logged beside the message, with `extra={"fields": {...}}`."""
    fields: dict[str, Any] = getattr(record, "fields", {})
    return fields
